"""What other programs wrap around a state dict: dictionaries with more in them, and prefixes before its keys."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

_ENTRIES = ("state_dict", "model_state_dict", "model", "network", "net", "ema", "model_ema", "state_dict_ema")
_WRAPPER = re.compile(r"((module|model|_orig_mod)\.)+")


def inner_state(saved: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the state dict in what ``torch.load`` has read: it itself, or what it has under a name such as "model".

    Raises:
        ValueError: it holds several, such as a model and its moving average.
    """
    found = dict(_states(saved, ""))
    if len(found) > 1:
        raise ValueError(f"there are several state dicts, at {' and '.join(found)}; pass the one that is meant")
    return next(iter(found.values()), saved)


def common_prefix(keys: Iterable[str], names: Collection[str]) -> str:
    """Return what stands before the keys that end in one of ``names``: "" or such as "model." or "module._orig_mod.".

    Keys with another prefix are in the minority; they are for the caller to refuse.

    Raises:
        ValueError: two prefixes are equally frequent, as of a student and its teacher.
    """
    counts = Counter(key.removesuffix(name) for key in keys for name in _endings(key) if name in names)
    (first, most), (second, runner_up) = (*counts.most_common(2), ("", 0), ("", 0))[:2]
    if most == runner_up and most > len(names) / 2:
        raise ValueError(f"the state dict has the network twice, under {first!r} and {second!r}; pass one of them")
    return first


def wrapped_name(key: str) -> str | None:
    """Return a key without the prefixes of wrappers, such as DataParallel's "module."; None where it has none."""
    found = _WRAPPER.match(key)
    return key[found.end() :] if found else None


def _states(saved: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    inside = [name for name in _ENTRIES if isinstance(saved.get(name), Mapping)]
    for name in inside:
        yield from _states(saved[name], f"{path}[{name!r}]")
    if not inside and any(isinstance(value, Tensor) for value in saved.values()):
        yield path, saved


def _endings(key: str) -> Iterator[str]:
    """A dotted key itself, then without its first parts: a.b.c, b.c, c."""
    yield key
    while "." in key:
        key = key.partition(".")[2]
        yield key
