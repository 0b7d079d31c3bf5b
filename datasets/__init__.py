"""The data: sources → shards + manifest → exact order → decoded batches.

Importing this package imports neither torch nor webdataset; the loaders and transforms do, when first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .contact_sheet import contact_sheet
from .csv_source import Columns
from .errors import DataError
from .fingerprints import Duplicates
from .images import decode_rgb
from .indexing import index_existing, index_shards
from .inspection import Inspection, inspect_dataset
from .manifest import Manifest, Shard, Split
from .order import BatchPlan, EpochOrder, merge_receipts, receipt
from .parallel import Mapper, processes
from .prepare import DIGITS, Progress, open_dataset, prepare, prepare_digits
from .reencode import Reencoding
from .sequence import BatchSequence, Tail
from .verify import BadShard, verify_shards

if TYPE_CHECKING:
    from .augmentation import Augmentation
    from .batch import Batch, Corrupt, OnCorrupt
    from .loader import EvalLoader, TrainLoader
    from .mixing import Mixing
    from .transforms import EvalTransform, TrainTransform

__all__ = [
    "DIGITS",
    "Augmentation",
    "BadShard",
    "Batch",
    "BatchPlan",
    "BatchSequence",
    "Columns",
    "Corrupt",
    "DataError",
    "Duplicates",
    "EpochOrder",
    "EvalLoader",
    "EvalTransform",
    "Inspection",
    "Manifest",
    "Mapper",
    "Mixing",
    "OnCorrupt",
    "Progress",
    "Reencoding",
    "Shard",
    "Split",
    "Tail",
    "TrainLoader",
    "TrainTransform",
    "contact_sheet",
    "decode_rgb",
    "index_existing",
    "index_shards",
    "inspect_dataset",
    "merge_receipts",
    "open_dataset",
    "prepare",
    "prepare_digits",
    "processes",
    "receipt",
    "verify_shards",
]

_LAZY = {
    "Augmentation": "augmentation",
    "Batch": "batch",
    "Corrupt": "batch",
    "EvalLoader": "loader",
    "EvalTransform": "transforms",
    "Mixing": "mixing",
    "OnCorrupt": "batch",
    "TrainLoader": "loader",
    "TrainTransform": "transforms",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LAZY[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
