"""Weights that a sweep starts from, named by an address: fetched once, into a file that every trial reads."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..datasets import one_line
from ..orchestration.errors import UserError
from ..orchestration.training.storage import Storage
from .experiments import Experiments
from .home import Home
from .model_address import SCHEMES, load_trained

_FOLDER = ".weights"
_WAIT_S = 60
# How torchvision and torch.hub name files: the first digits of their sha256 before the suffix.
_DIGEST = re.compile(r"-([0-9a-f]{8,})\.\w+$")


def pin_weights(
    home: Home, fields: Mapping[str, Any], storage: str | None = None, tracking_uri: str | None = None
) -> dict[str, Any]:
    """Put files in place of the addresses in `recipe.weights`, so that all trials start from the same bytes.

    An address is a URL of http or https, an experiment or EXPERIMENT/TRIAL, or a model's in MLflow, such as
    `models:/NAME@champion`. Paths become absolute; URLs of storages stay as they are. What is not a file of weights is
    refused here, not by each trial. A path or storage that cannot be read from here is left to the nodes.

    Args:
        home: whose experiments and embedded MLflow are meant.
        fields: of an experiment's spec.
        storage: the folder or URL below which the experiment's storage will be, where the files go; None: the home.
        tracking_uri: the MLflow server; by default the experiment's own, or the embedded one.

    Raises:
        UserError: there is no such model or file, it holds no weights, or it cannot be stored.
        EngineError: the MLflow server cannot be reached or started.
    """
    recipe = fields.get("recipe")
    if not isinstance(recipe, Mapping) or not (given := recipe.get("weights")):
        return dict(fields)
    texts = given.split(",") if isinstance(given, str) else [*given]
    place = storage or str(home.experiments)
    files = [_pin(home, str(text).strip(), place, tracking_uri) for text in texts]
    return {**fields, "recipe": {**recipe, "weights": ",".join(files) if isinstance(given, str) else files}}


def _pin(home: Home, text: str, place: str, tracking_uri: str | None) -> str:
    path = Path(text).expanduser()
    if path.exists():
        _require_weights(str(path.absolute()))
        return str(path.absolute())  # trials run in other folders
    if text.startswith(("http://", "https://")):
        content, suffix = _download(text), Path(urlsplit(text).path).suffix
    elif text.startswith(SCHEMES) or text.partition(os.sep)[0] in Experiments(home).names():
        content, suffix = _of_model(home, text, tracking_uri), ".pt"
    elif "://" in text:
        _require_weights(text)
        return text
    else:
        return str(path.absolute())
    name = f"{_FOLDER}/{hashlib.sha256(content).hexdigest()[:16]}{suffix}"
    try:
        Storage(place).write(name, content)
    except OSError as error:
        raise UserError(f"--weights {text}: {place} cannot keep a copy: {one_line(error)}") from None
    return f"{place.rstrip('/')}/{name}"


def _require_weights(place: str) -> None:
    """Refuse what can be read and holds no weights; what cannot be read from here, nodes may see."""
    from ..orchestration.training.checkpoint import read_start

    with suppress(OSError):
        _require_tensors(place, lambda: read_start(place))


def _require_tensors(place: str, read: Callable[[], tuple[Mapping[str, Any], dict[str, Any]]]) -> None:
    """Raise UserError where `read`, which reads as trials do, finds no state dict."""
    from torch import Tensor

    from ..effnet.wrappings import inner_state

    try:
        state, _ = read()
        has_weights = any(isinstance(value, Tensor) for value in inner_state(state).values())
    except (ImportError, ValueError, UserError) as error:
        raise UserError(f"--weights {place}: {one_line(error, 400).removeprefix(f'{place} ')}") from None
    if not has_weights:
        raise UserError(f"--weights {place}: holds no weights: there is no tensor in it")


def _of_model(home: Home, address: str, tracking_uri: str | None) -> bytes:
    try:
        trained = load_trained(home, address, tracking_uri)
    except UserError as error:
        reason = str(error).removeprefix(f"--model {address}: ")
        raise UserError(f"--weights {address}: {reason}") from None
    from ..orchestration.training.checkpoint import encode

    state = {"model": trained.network.state_dict(), "ema": None, "facts": trained.facts.to_dict()}
    return encode(state)


def _download(url: str) -> bytes:
    import requests

    try:
        answer = requests.get(url, timeout=_WAIT_S)
        answer.raise_for_status()
        content, kind = answer.content, answer.headers.get("Content-Type", "of no type")
    except requests.RequestException as error:
        raise UserError(f"--weights {url} cannot be downloaded: {one_line(error)}") from None
    digest = _DIGEST.search(urlsplit(url).path)
    if digest and not hashlib.sha256(content).hexdigest().startswith(digest[1]):
        raise UserError(f"--weights {url}: what the server sent has not the sha256 {digest[1]}… of its name")
    from ..orchestration.training.checkpoint import decode_start

    sent = f"what the server sent ({kind}, {len(content):,} bytes)"
    _require_tensors(url, lambda: decode_start(content, sent, Path(urlsplit(url).path).suffix))
    return content
