"""How gradients are laid out in shared memory; that they are averaged is in `test_distributed`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from effnet_cluster.orchestration.training.shared_average import lay_out


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=40), st.integers(1, 9), st.integers(64, 8000))
def test_gradients_lie_side_by_side_in_groups_that_fit_and_equal_parts(
    sizes: list[int], world_size: int, most: int
) -> None:
    groups = lay_out(sizes, world_size, most)
    assert [place.index for group in groups for place in group] == list(range(len(sizes)))
    for group in groups:
        ends = [place.start + sizes[place.index] for place in group]
        assert group[0].start == 0
        assert all(after.start >= end for after, end in zip(group[1:], ends, strict=False))
        assert all(place.start % 64 == 0 for place in group)
        assert ends[-1] <= most or len(group) == 1
        owners = [place.owner for place in group]
        assert owners == sorted(owners)
        largest = 64 + max(sizes[place.index] for place in group)
        for rank in range(world_size):
            part = sum(sizes[place.index] for place in group if place.owner == rank)
            assert part <= ends[-1] / world_size + largest
        assert set(owners) <= set(range(world_size))
