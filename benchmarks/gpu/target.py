"""The device that is checked or measured, and what this machine lacks for it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch

# Of the trainer without engines; `psutil` tells a CPU's memory.
TRAINER = ("pydantic", "webdataset", "simplejpeg", "psutil")
ENGINES = ("ray", "mlflow", "click", "cloup", "optuna")


@dataclass(frozen=True)
class Target:
    """What is checked or measured.

    Attributes:
        device: ``cuda`` or, to try the commands themselves, ``cpu``.
        tiny: whether networks and data are as small as can be.
        folder: takes files, on a disk.
    """

    device: torch.device
    tiny: bool
    folder: Path

    @property
    def is_cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    def synchronize(self) -> None:
        """Wait until the device has done all it was given."""
        if self.is_cuda:
            torch.cuda.synchronize(self.device)


def missing(packages: Iterable[str]) -> list[str]:
    """Those of the packages that cannot be imported here."""
    return [name for name in packages if importlib.util.find_spec(name) is None]


def is_chosen(name: str, only: Sequence[str]) -> bool:
    """Whether one of the names or shell patterns in `only` is that of `name`; all are chosen where `only` is empty."""
    return not only or any(fnmatchcase(name, pattern) for pattern in only)


def describe(device: torch.device) -> dict[str, str]:
    """Names and versions of what figures depend on."""
    facts = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("torchvision", "timm", "ray", "mlflow"):
        if not missing([name]):
            facts[name] = importlib.metadata.version(name)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "card": properties.name,
            "memory": f"{properties.total_memory / 2**30:.0f} GiB",
            "cuda": str(torch.version.cuda),
            "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
        }
    return facts
