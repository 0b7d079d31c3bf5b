"""What open files that serve as locks need: their names can be taken from them at any time."""

import os
from pathlib import Path


def is_at(descriptor: int, path: Path) -> bool:
    """Whether the file that is open is the one that stands at `path` now."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
