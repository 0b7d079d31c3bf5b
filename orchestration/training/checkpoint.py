"""What a checkpoint holds, and how it is read again."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from .checkpoint_names import position_name
from .checkpoint_store import FOLDER, SUFFIX
from .storage import Storage

_FORMAT = 3
# How files of torch.save begin: a zip file, or the pickle that it was before torch 1.6.
_BEGINNINGS = (b"PK\x03\x04", b"\x80")
_SHOWN_BYTES = 20


@dataclass(frozen=True)
class TrainingProgress:
    """Where training stands: a position in the run, and what the epoch under way has come to so far.

    Attributes:
        epoch, batch: the next global batch that the optimizer has not seen, counted within its epoch. Batches that a
            loader had read ahead do not count.
        seconds: training time of the finished epochs.
        best_top1, best_epoch: the best validation top-1 and the epoch, from 0, that had it; -1 before the first.
        receipt, samples: of the epoch under way, over all ranks.
        loss_sum, interval_sum: its summed loss, and that of the open interval of the step curve, mean over the ranks.
        epoch_seconds, waited: its training time and the part of it that was spent on waiting for data, of rank 0.
    """

    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    best_top1: float = -1.0
    best_epoch: int = -1
    receipt: int = 0
    samples: int = 0
    loss_sum: float = 0.0
    interval_sum: float = 0.0
    epoch_seconds: float = 0.0
    waited: float = 0.0

    @property
    def name(self) -> str:
        """Of the checkpoint at this position; names sort as positions do."""
        return position_name(self.epoch, self.batch)

    @property
    def best_name(self) -> str | None:
        """Of the checkpoint that ended the best epoch."""
        return position_name(self.best_epoch + 1, 0) if self.best_epoch >= 0 else None

    def next_epoch(self, top1: float) -> TrainingProgress:
        """Where the next epoch begins, after one with this validation top-1."""
        better = top1 > self.best_top1
        return TrainingProgress(
            epoch=self.epoch + 1,
            seconds=self.seconds + self.epoch_seconds,
            best_top1=top1 if better else self.best_top1,
            best_epoch=self.epoch if better else self.best_epoch,
        )


def to_cpu(value: Any) -> Any:
    """A copy of nested dictionaries and lists with their tensors on the CPU, which later steps will not change."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: to_cpu(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_cpu(item) for item in value)
    return value


def encode(state: Mapping[str, Any]) -> bytes:
    """The bytes of a checkpoint that holds `state`."""
    buffer = io.BytesIO()
    torch.save({"format": _FORMAT, **state}, buffer)
    return buffer.getvalue()


def decode(content: bytes, where: str, device: torch.device) -> dict[str, Any]:
    """Read a checkpoint, unpickling tensors and plain values only.

    Args:
        content: what `encode` returned.
        where: its address, for errors.
        device: where the tensors go.

    Raises:
        UserError: it is no checkpoint of this version, or damaged.
    """
    try:
        # torch's own reader does not look at the checksums of the zip file that a checkpoint is.
        if zipfile.ZipFile(io.BytesIO(content)).testzip() is not None:
            raise zipfile.BadZipFile
        state = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except Exception as error:  # what the zip reader and the unpickler raise on foreign files has no common type
        raise UserError(f"{where} is no checkpoint, or a damaged one ({type(error).__name__})") from None
    if not isinstance(state, dict) or state.get("format") != _FORMAT or "model" not in state:
        raise UserError(f"{where} is no checkpoint in this version's format {_FORMAT}")
    return state


def check_digest(state: Mapping[str, Any], digests: Collection[str], where: str) -> None:
    """Raise UserError if a checkpoint is of another training than those with these digests."""
    if state["spec_digest"] not in digests:
        raise UserError(
            f"checkpoint {where} was written by another specification, or an earlier version; "
            "submit under another --name"
        )


def evaluated_weights(state: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The weights that were evaluated: the averaged ones, if the recipe averages."""
    weights: Mapping[str, Tensor] = state["ema"]["network"] if state["ema"] else state["model"]
    return weights


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights that were evaluated (the averaged ones, if the recipe averages) and the facts of a checkpoint.

    Args:
        path: a checkpoint's file, or the folder of a trial or of its checkpoints, whose latest is taken.

    Raises:
        UserError: it is no checkpoint of ours, damaged, or of another format; the message names it.
    """
    found = [*path.glob(f"*{SUFFIX}"), *path.glob(f"{FOLDER}/*{SUFFIX}")]
    file = max(found, key=lambda entry: entry.name, default=path)
    if not file.is_file():
        raise UserError(f"{path} is no checkpoint: it has no *{SUFFIX}")
    return _weights_and_facts(file.read_bytes(), str(file))


def _weights_and_facts(content: bytes, where: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    state = decode(content, where, torch.device("cpu"))
    return dict(evaluated_weights(state)), dict(state.get("facts") or {})


def read_start(place: str) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """The weights that a training starts from, and their facts where a checkpoint of ours has them.

    Args:
        place: path of a checkpoint of ours, as `read_weights` takes it, or of a file that torch.save or safetensors
            wrote; or such a file's URL, as `Storage` takes it.

    Raises:
        UserError: a checkpoint of ours is damaged or of another format, or no storage has such URLs.
        ValueError: the file holds no weights.
        OSError: it cannot be read.
        ImportError: safetensors is not installed.
    """
    if "://" in place:
        folder, _, name = place.rpartition("/")
        content = Storage(folder).read(name)
    elif Path(place).is_dir():
        return read_weights(Path(place))
    else:
        content = Path(place).read_bytes()
    return decode_start(content, place, Path(place).suffix)


def decode_start(content: bytes, where: str, suffix: str) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """The same of a file's content.

    Args:
        content: of the file.
        where: what it is of, for errors.
        suffix: of its name; `.safetensors` is read as such.

    Raises:
        UserError: a checkpoint of ours is damaged or of another format.
        ValueError: the file holds no weights.
        ImportError: safetensors is not installed.
    """
    if not content:
        raise ValueError(f"{where} holds no weights: it is empty")
    if suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            return load(content), {}
        except SafetensorError as error:
            raise ValueError(f"{where} holds no weights: {error}") from None
    if not content.startswith(_BEGINNINGS):
        begins = f"it begins with {content[:_SHOWN_BYTES]!r}"
        raise ValueError(f"{where} holds no weights: torch.save writes no such file; {begins}")
    try:
        saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # what the unpickler raises on foreign files has no common type
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{where} holds no weights that can be read without running its code: {reason}") from None
    if not isinstance(saved, Mapping):
        raise ValueError(f"{where} holds no state dict, but {type(saved).__name__}")
    if "format" in saved and "facts" in saved:
        return _weights_and_facts(content, where)
    return saved, {}
