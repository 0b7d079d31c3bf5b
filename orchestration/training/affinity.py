"""Which cores serve a GPU: those of its own NUMA node, whose memory it reaches without crossing to another socket."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch

_log = logging.getLogger(__name__)
_DEVICES = Path("/sys/bus/pci/devices")


def stay_near(device: torch.device, devices: Path = _DEVICES) -> None:
    """Keep this thread, and the threads and processes that it starts from now on, on the cores next to a GPU.

    Nothing changes on a CPU, where the system does not say which cores these are, and where none of them is allowed.

    Args:
        device: what this rank computes on.
        devices: the kernel's folder of PCI devices.
    """
    if device.type != "cuda":
        return
    properties: Any = torch.cuda.get_device_properties(device)  # torch declares no PCI fields
    domain, bus, slot = properties.pci_domain_id, properties.pci_bus_id, properties.pci_device_id
    allowed = os.sched_getaffinity(0)
    near = allowed & _cores(devices / f"{domain:04x}:{bus:02x}:{slot:02x}.0" / "local_cpulist")
    if near and near != allowed:
        os.sched_setaffinity(0, near)
        _log.info("%s is next to %d of %d cores; this rank stays there", device, len(near), len(allowed))


def _cores(file: Path) -> set[int]:
    """The cores of a list as the kernel writes it, such as ``0-3,8``; none where there is no such file."""
    try:
        ranges = [part.split("-") for part in file.read_text().strip().split(",") if part]
    except OSError:
        return set()
    return {core for ends in ranges for core in range(int(ends[0]), int(ends[-1]) + 1)}
