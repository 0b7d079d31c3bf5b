"""The data: sources → shards and manifest → exact order → decoded batches.

Three packages, each of which imports only what follows it:
`preparing` (sources → shards and manifest), `reading` (manifest → batches), `decoding` (bytes → tensors).
Every public name is importable from here, and loaded when it is first used: a command line that wants one of them
pays for no other, least of all for torch.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if sys.platform != "linux":
    # Locks between processes (fcntl) and space reserved on the disk (os.posix_fallocate).
    raise ImportError(f"effnet-cluster runs on Linux alone, not on {sys.platform}; use a Linux machine or container")

if TYPE_CHECKING:
    from .addresses import server_address
    from .decoding.augmentation import Augmentation
    from .decoding.images import decode_rgb, read_rgb
    from .decoding.mixing import Mixing
    from .decoding.transforms import EvalTransform, TrainTransform
    from .errors import DataError, EffnetClusterError, one_line, shorten, visible
    from .files import locked, write_atomically
    from .manifest import Manifest, Shard, Split
    from .preparing.account import ACCOUNT_FILE, Account
    from .preparing.assemble import PreparingProgress
    from .preparing.class_map import read_class_map
    from .preparing.contact_sheet import contact_sheet
    from .preparing.csv_source import Columns
    from .preparing.duplicates import Duplicates
    from .preparing.indexing import index_existing, index_shards
    from .preparing.inspection import Inspection, inspect_dataset
    from .preparing.labels import read_class_names
    from .preparing.layout import parse_splits
    from .preparing.opening import Understanding
    from .preparing.prepare import DIGITS, open_dataset, prepare, prepare_digits
    from .preparing.processes import Mapper, processes
    from .preparing.reencode import Reencoding
    from .reading.batch import Batch, Corrupt, OnCorrupt
    from .reading.loader import EvalLoader, TrainLoader
    from .reading.order import BatchLayout, EpochOrder, merge_receipts, receipt
    from .reading.sequence import BatchSequence, Tail
    from .surroundings import (
        RAY_SOCKET_BYTES,
        SAFE_PATH,
        child_environment,
        fits_sockets,
        reach_this_machine_directly,
        socket_folder,
        with_environment,
    )
    from .verify import BadShard, verify_shards

__all__ = [
    "ACCOUNT_FILE",
    "DIGITS",
    "RAY_SOCKET_BYTES",
    "SAFE_PATH",
    "Account",
    "Augmentation",
    "BadShard",
    "Batch",
    "BatchLayout",
    "BatchSequence",
    "Columns",
    "Corrupt",
    "DataError",
    "Duplicates",
    "EffnetClusterError",
    "EpochOrder",
    "EvalLoader",
    "EvalTransform",
    "Inspection",
    "Manifest",
    "Mapper",
    "Mixing",
    "OnCorrupt",
    "PreparingProgress",
    "Reencoding",
    "Shard",
    "Split",
    "Tail",
    "TrainLoader",
    "TrainTransform",
    "Understanding",
    "child_environment",
    "contact_sheet",
    "decode_rgb",
    "fits_sockets",
    "index_existing",
    "index_shards",
    "inspect_dataset",
    "locked",
    "merge_receipts",
    "one_line",
    "open_dataset",
    "parse_splits",
    "prepare",
    "prepare_digits",
    "processes",
    "reach_this_machine_directly",
    "read_class_map",
    "read_class_names",
    "read_rgb",
    "receipt",
    "server_address",
    "shorten",
    "socket_folder",
    "verify_shards",
    "visible",
    "with_environment",
    "write_atomically",
]

_HOMES = {
    "addresses": ("server_address",),
    "decoding.augmentation": ("Augmentation",),
    "decoding.images": ("decode_rgb", "read_rgb"),
    "decoding.mixing": ("Mixing",),
    "decoding.transforms": ("EvalTransform", "TrainTransform"),
    "errors": ("DataError", "EffnetClusterError", "one_line", "shorten", "visible"),
    "files": ("locked", "write_atomically"),
    "manifest": ("Manifest", "Shard", "Split"),
    "preparing.account": ("ACCOUNT_FILE", "Account"),
    "preparing.assemble": ("PreparingProgress",),
    "preparing.class_map": ("read_class_map",),
    "preparing.contact_sheet": ("contact_sheet",),
    "preparing.csv_source": ("Columns",),
    "preparing.duplicates": ("Duplicates",),
    "preparing.indexing": ("index_existing", "index_shards"),
    "preparing.inspection": ("Inspection", "inspect_dataset"),
    "preparing.labels": ("read_class_names",),
    "preparing.layout": ("parse_splits",),
    "preparing.opening": ("Understanding",),
    "preparing.prepare": ("DIGITS", "open_dataset", "prepare", "prepare_digits"),
    "preparing.processes": ("Mapper", "processes"),
    "preparing.reencode": ("Reencoding",),
    "reading.batch": ("Batch", "Corrupt", "OnCorrupt"),
    "reading.loader": ("EvalLoader", "TrainLoader"),
    "reading.order": ("BatchLayout", "EpochOrder", "merge_receipts", "receipt"),
    "reading.sequence": ("BatchSequence", "Tail"),
    "surroundings": (
        "RAY_SOCKET_BYTES",
        "SAFE_PATH",
        "child_environment",
        "fits_sockets",
        "reach_this_machine_directly",
        "socket_folder",
        "with_environment",
    ),
    "verify": ("BadShard", "verify_shards"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
