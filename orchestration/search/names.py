"""Names of trials, which MLflow, Ray, the logs and the folders share."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping

from .domains import Value, text_of

# Characters for the swept values, and of the digest that stands for those that do not fit. Forty bits: of 10,000 trials
# two share them with a chance of 1 to 20,000.
_ROOM, _DIGEST = 32, 10


def slug(text: str) -> str:
    """`text` in the characters that names, paths and queries take: `Flower Photos (2)` → `flower-photos-2`."""
    return re.sub(r"[^a-z0-9_.]+", "-", text.lower())[:40].strip("-_.") or "data"


def trial_id(
    data: str, variant: str, activation: str, shortcut: str, seed: int, swept: Mapping[str, Value] | None = None
) -> str:
    """The readable name of a trial, such as `flowers-b3-silu-s0` or, where `lr` is swept, `flowers-b3-silu-lr0.003-s0`.

    Swept values stand in it as far as there is room; a digest of all of them follows where there is not.
    """
    cut = [shortcut] if shortcut != "residual" else []
    return "-".join([slug(data), variant, activation, *cut, *_swept_parts(swept or {}), f"s{seed}"])


def _swept_parts(swept: Mapping[str, Value]) -> list[str]:
    # Short names of values alone would hide which field they are of.
    parts = [f"{name}{text_of(value)}" for name, value in swept.items()]
    if len("-".join(parts)) <= _ROOM:
        return parts
    content = json.dumps({name: text_of(value) for name, value in swept.items()}, sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:_DIGEST]
    shown: list[str] = []
    for part in parts:
        if len("-".join([*shown, part])) > _ROOM - _DIGEST - 1:
            break
        shown.append(part)
    return [*shown, digest]
