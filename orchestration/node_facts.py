"""What a machine has, and what it sees of an experiment's places: asked on each node before a sweep begins."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import requests

from ..datasets import DataError, one_line, open_dataset, reach_this_machine_directly
from ..effnet.pretrained import PRETRAINED
from .errors import UserError
from .request import ExperimentRequest
from .training.storage import OWNER_FILE, Storage

_PACKAGES = ("torch", "ray")
_SHM = "/dev/shm"
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_ASK_TIMES, _ASK_S = 3, 5.0


@dataclass(frozen=True)
class NodeFacts:
    """What a machine has, and what it sees of an experiment's places.

    Attributes:
        address: how errors name it; empty for this machine.
        versions: of Python and of the packages that all processes of an experiment share.
        cores: of its CPUs, as Ray counts them.
        memory: bytes that its processes may use in all.
        shared_memory: free bytes of /dev/shm; None where there is none.
        gpus: as Ray counts them.
        gpu_memory: bytes of each GPU that is there; None where nobody could ask.
        storage_free: free bytes of the disk that holds the storage; None of a URL.
        storage, data, tracking, weights: what is wrong with these, as this machine sees them; empty where nothing is.
    """

    address: str
    versions: Mapping[str, str]
    cores: int
    memory: int
    shared_memory: int | None = None
    gpus: int = 0
    gpu_memory: tuple[int, ...] | None = None
    storage_free: int | None = None
    storage: str = ""
    data: str = ""
    tracking: str = ""
    weights: str = ""

    @property
    def name(self) -> str:
        """How errors name it."""
        return f"node {self.address}" if self.address else "this machine"


def this_machine(storage: str, *, with_gpus: bool) -> NodeFacts:
    """The facts of the machine of this process. Takes a fraction of a second.

    Args:
        storage: the folder or URL for checkpoints; the folder may be missing yet.
        with_gpus: whether to ask for GPUs, too.
    """
    gpu_memory = _gpu_memory() if with_gpus else ()
    return NodeFacts(
        address="",
        versions=versions(),
        cores=os.cpu_count() or 1,
        memory=_memory(),
        shared_memory=_free(_SHM),
        gpus=len(gpu_memory or ()),
        gpu_memory=gpu_memory,
        storage_free=_storage_free(storage),
    )


def facts_of_node(address: str, node_id: str, cores: int, gpus: int, request: ExperimentRequest) -> NodeFacts:
    """This machine's facts, as a node of a cluster that is to run an experiment whose storage is claimed."""
    return replace(
        this_machine(request.storage, with_gpus=gpus > 0),
        address=address,
        cores=cores,
        gpus=gpus,
        storage=_told(lambda: _try_storage(request.storage, request.uid, node_id)),
        data=_told(lambda: _try_data(request)),
        tracking=_told(lambda: _try_server(request.tracking_uri)),
        weights=_told(lambda: _try_weights(request), most=500),  # with the file's path and its URL,
    )


def versions() -> dict[str, str]:
    """Of Python and of the packages that all processes of an experiment share; local builds count as their release."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for name in _PACKAGES:
        try:
            found[name] = version(name).partition("+")[0]
        except PackageNotFoundError:
            found[name] = "none"
    return found


def _told(attempt: Callable[[], str], most: int = 200) -> str:
    """What an attempt says is wrong, or the error that it ends in, in at most so many characters."""
    try:
        return attempt()
    except (OSError, UserError, DataError, ImportError, ValueError) as error:
        return one_line(error, most)


def _try_storage(storage: str, uid: str, node_id: str) -> str:
    try:
        place = Storage(storage)
        if place.read(OWNER_FILE).decode(errors="replace") != uid:
            return f"it sees another folder at {storage}"
        probe = f".probe-{node_id}"
        place.write(probe, b"")
        place.delete(probe)
    except FileNotFoundError:
        return f"it sees nothing at {storage}"
    return ""


def _try_data(request: ExperimentRequest) -> str:
    spec = request.spec
    manifest = open_dataset(spec.data, Path(request.cache_root), spec.execution.cache_limit, typed=False)
    if manifest.digest != request.plan.data_digest:
        return f"digest {manifest.digest[:12]}, not the plan's {request.plan.data_digest[:12]}"
    return ""


def _try_server(uri: str) -> str:
    reach_this_machine_directly()
    for attempt in range(_ASK_TIMES):
        try:
            requests.get(f"{uri.rstrip('/')}/health", timeout=_ASK_S)  # a refusal is an answer too
        except requests.RequestException:
            time.sleep(attempt)
        else:
            return ""
    return f"{uri} does not answer"


def _try_weights(request: ExperimentRequest) -> str:
    """Find the weights that trials start from; published ones are downloaded into this node's cache."""
    for place in dict.fromkeys(trial.recipe.weights for trial in request.plan.examples):
        if place and not Storage(place).exists():
            return f"it sees nothing at {place}; give --weights a path that every node sees"
    for name in dict.fromkeys(trial.variant for trial in request.plan.examples if trial.recipe.pretrained):
        PRETRAINED[name].origin.fetch()
    return ""


def _memory() -> int:
    """Bytes of this machine's memory, or of the container's share of it."""
    limits = [psutil.virtual_memory().total]
    for place in _CGROUP_LIMITS:
        try:
            limits.append(int(Path(place).read_text()))
        except (OSError, ValueError):  # none, or "max"
            continue
    return min(limits)


def _free(folder: str) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _storage_free(storage: str) -> int | None:
    if "://" in storage:
        return None
    place = Path(storage).absolute()
    return _free(str(next(found for found in (place, *place.parents) if found.exists())))


def _gpu_memory() -> tuple[int, ...] | None:
    """Bytes of each of NVIDIA's GPUs here; none where there is no driver, and None where it does not answer."""
    if not Path("/proc/driver/nvidia").exists():
        return ()
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_S, check=True).stdout
        return tuple(int(line) * 2**20 for line in told.split())
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
