"""Choosing validation images: a part of each class, and never an image whose equal is trained on."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnet_cluster.datasets.philox import Domain, permutation
from effnet_cluster.datasets.preparing.splitting import choose_validation

FRACTIONS = st.floats(0.01, 0.99)


def choose(labels: list[int], groups: list[int], fraction: float, seed: int = 0) -> list[bool]:
    chosen = choose_validation(np.array(labels, dtype=np.int64), np.array(groups, dtype=np.int64), fraction, seed)
    return [bool(one) for one in chosen]


@given(images=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=60), fraction=FRACTIONS)
def test_equal_images_stay_together_and_every_class_is_trained_on(
    images: list[tuple[int, int]], fraction: float
) -> None:
    labels, groups = [label for label, _ in images], [group for _, group in images]
    chosen = choose(labels, groups, fraction)
    sides = {(group, side) for group, side in zip(groups, chosen, strict=True)}
    assert len(sides) == len(set(groups))
    assert {label for label, val in zip(labels, chosen, strict=True) if not val} == set(labels)
    several = {group for group in groups if len({label for label, other in images if other == group}) > 1}
    for label in set(labels):
        of_class = [group for other, group in images if other == label]
        movable = set(of_class) - several
        if movable and len(set(of_class)) > 1:
            assert any(val for other, val in zip(labels, chosen, strict=True) if other == label)


@given(labels=st.lists(st.integers(0, 3), max_size=60), fraction=FRACTIONS, seed=st.integers(0, 2**64 - 1))
def test_without_equal_images_each_class_gives_its_part(labels: list[int], fraction: float, seed: int) -> None:
    chosen = choose(labels, list(range(len(labels))), fraction, seed)
    for label, count in Counter(labels).items():
        rows = [row for row, other in enumerate(labels) if other == label]
        wanted = min(max(round(fraction * count), 1), count - 1)
        order = permutation(count, Domain.SPLIT, seed, minor=label)
        assert {row for row in rows if chosen[row]} == {rows[i] for i in order[:wanted].tolist()}


@pytest.mark.parametrize(
    ("labels", "groups", "val"),
    [
        ([0] * 8, [0, 0, 0, 0, 1, 1, 1, 1], 4),  # no group fits: the smallest goes
        ([0] * 8, [0, 0, 0, 0, 0, 1, 1, 1], 3),
        ([0] * 8, [0] * 8, 0),  # one picture, eight times
        ([0] * 10, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4], 2),
        ([0, 0, 1, 1], [0, 0, 0, 1], 1),  # under two classes: it stays in training
        ([0], [0], 0),
        ([], [], 0),
    ],
)
def test_groups_are_never_cut(labels: list[int], groups: list[int], val: int) -> None:
    assert sum(choose(labels, groups, 0.2)) == val
