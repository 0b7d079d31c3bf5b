"""Random numbers as a pure function of seed and stream: no state is carried, saved or replayed.

Only the raw 64-bit words of numpy's Philox are used. NumPy keeps those stable between releases, whereas the algorithms
of `Generator` (permutation, uniform, ...) may change (NEP 19). An order that changed with NumPy could not be verified
later.
"""

import threading
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from .errors import DataError

_WORD = 2**64
_BUFFERED = 4
_of_thread = threading.local()


class Domain(IntEnum):
    """What the numbers are for: one value per use, so that no two uses ever see the same words."""

    SHARDS = 1
    SAMPLES = 2
    AUGMENTATION = 3
    SPLIT = 4
    WRITING = 5
    POLICY = 6
    ERASING = 7
    MIXING = 8


def require_word(what: str, value: int) -> None:
    """Raise DataError unless `value` (a seed, epoch or index, named by `what`) fits an unsigned 64-bit word."""
    if not 0 <= value < _WORD:
        raise DataError(f"{what} must be between 0 and 2^64-1, got {value}")


def words(count: int, domain: Domain, seed: int, major: int = 0, minor: int = 0) -> NDArray[np.uint64]:
    """`count` uniform 64-bit words of stream (domain, seed, major, minor), shape (count,).

    The key is (seed, major), the counter starts at (0, minor, domain, 0): Philox4x64 walks the lowest counter word, so
    streams cannot run into each other (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).

    Raises:
        DataError: seed, major or minor is outside 0..2^64-1.
    """
    for what, value in (("seed", seed), ("epoch", major), ("index", minor)):
        require_word(what, value)
    key = np.array([seed, major], dtype=np.uint64)
    counter = np.array([0, minor, int(domain), 0], dtype=np.uint64)
    philox = _philox()
    philox.state = {
        "bit_generator": "Philox",
        "state": {"counter": counter, "key": key},
        "buffer": np.zeros(_BUFFERED, dtype=np.uint64),
        "buffer_pos": _BUFFERED,  # nothing is left of what was drawn before
        "has_uint32": 0,
        "uinteger": 0,
    }
    return np.asarray(philox.random_raw(count), dtype=np.uint64)


def _philox() -> np.random.Philox:
    """This thread's generator. A new one would ask the system for entropy, only to be overwritten."""
    if not hasattr(_of_thread, "philox"):
        _of_thread.philox = np.random.Philox(0)
    philox: np.random.Philox = _of_thread.philox
    return philox


def uniforms(count: int, domain: Domain, seed: int, major: int = 0, minor: int = 0) -> NDArray[np.float64]:
    """Like `words`, as doubles in [0, 1) with 53 random bits each, shape (count,)."""
    return np.asarray((words(count, domain, seed, major, minor) >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def permutation(count: int, domain: Domain, seed: int, major: int = 0, minor: int = 0) -> NDArray[np.int64]:
    """A uniform permutation of 0..count-1, shape (count,): the stable sort order of random words."""
    return np.argsort(words(count, domain, seed, major, minor), kind="stable")
