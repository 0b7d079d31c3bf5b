"""Choosing validation images from training images: a part of each class, and equal images always on the same side."""

from collections import Counter
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from ..philox import Domain, permutation


def choose_validation(
    labels: NDArray[np.int64], groups: NDArray[np.int64], fraction: float, seed: int
) -> NDArray[np.bool_]:
    """Which images go to validation: of each class `fraction`, rounded, at least one to either side where it has two.

    Images of one group go to the same side, whole. A group that would exceed its class's part stays in training; where
    every group would, the smallest goes to validation. Groups of several classes stay in training.

    Args:
        labels: int64 (N,), class numbers.
        groups: int64 (N,), numbers from 0 that are equal where images are (see `ImageHashes.groups`).

    Returns:
        bool (N,), a pure function of the arguments.
    """
    chosen = np.zeros(len(labels), dtype=np.bool_)
    fixed = set(np.flatnonzero(several_values(groups, labels)).tolist())
    for number in np.unique(labels).tolist():
        of_class = np.flatnonzero(labels == number)
        count = min(max(round(fraction * len(of_class)), 1), len(of_class) - 1)
        order = permutation(len(of_class), Domain.SPLIT, seed, minor=number)
        taken = _whole_groups(groups[of_class[order]].tolist(), fixed, count)
        chosen[of_class] = np.isin(groups[of_class], taken)
    return chosen


def _whole_groups(in_order: list[int], fixed: Collection[int], count: int) -> list[int]:
    """The first groups, without those that are `fixed`, that together have at most `count` images."""
    sizes = Counter(in_order)  # it keeps the order
    movable = [group for group in sizes if group not in fixed]
    taken = []
    for group in movable:
        if sizes[group] <= count:
            taken.append(group)
            count -= sizes[group]
    if not taken and movable and len(sizes) > 1:
        return [min(movable, key=sizes.__getitem__)]
    return taken


def several_values(numbers: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """For each number 0, 1, ... whether the rows with it differ in their value; both arguments have shape (rows,)."""
    count = numbers.max(initial=-1) + 1
    least, most = np.full(count, np.iinfo(np.int64).max), np.full(count, np.iinfo(np.int64).min)
    np.minimum.at(least, numbers, values)
    np.maximum.at(most, numbers, values)
    return least < most
