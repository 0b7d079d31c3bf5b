"""Random numbers as a pure function of (seed, stream): no state is carried, so nothing has to be saved or replayed.

Only the raw 64-bit words of numpy's Philox are used. NumPy keeps those stable between releases, whereas the algorithms
of `Generator` (permutation, uniform, ...) may change (NEP 19), and an order that a new NumPy changes could not be
verified later.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from .errors import DataError

_WORD = 2**64


class Domain(IntEnum):
    """What the numbers are for: one value a use, so that no two uses ever see the same words."""

    SHARDS = 1
    SAMPLES = 2
    AUGMENTATION = 3
    SPLIT = 4
    WRITING = 5


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
    return np.asarray(np.random.Philox(key=key, counter=counter).random_raw(count), dtype=np.uint64)


def uniforms(count: int, domain: Domain, seed: int, major: int = 0, minor: int = 0) -> NDArray[np.float64]:
    """Like `words`, as doubles in [0, 1) with 53 random bits each, shape (count,)."""
    return np.asarray((words(count, domain, seed, major, minor) >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def permutation(count: int, domain: Domain, seed: int, major: int = 0, minor: int = 0) -> NDArray[np.int64]:
    """A uniform permutation of 0..count-1, shape (count,): the stable sort order of random words."""
    drawn = words(count, domain, seed, major, minor)
    order = np.argsort(drawn)
    # Without equal words every sort is the stable one, and numpy's default is twice as fast.
    ordered = drawn[order]
    if (ordered[1:] == ordered[:-1]).any():
        order = np.argsort(drawn, kind="stable")
    return order.astype(np.int64, copy=False)
