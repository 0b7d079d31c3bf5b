"""The breakdown of a trial's launch, from moments that are known."""

import pytest

from effnet_cluster.benchmarks.launch import END, NEXT, START, Moments, summarise


def test_the_parts_add_up_and_the_ratio_is_paired_by_round() -> None:
    calm = (100.0, [Moments(103, 105, 106, 110, 130), Moments(111, 113, 114, 118, 138)])
    slow = (200.0, [Moments(206, 210, 212, 220, 260), Moments(222, 226, 228, 236, 276)])
    odd = (300.0, [Moments(304, 306, 308, 312, 333), Moments(315, 317, 318, 322, 342)])
    result = summarise([calm, slow, odd], [3.0, 4.0, 4.0])
    assert list(result.parts) == [START, NEXT, END]
    assert list(result.parts[START].values()) == [4.0, 2.0, 2.0]
    assert list(result.parts[NEXT].values()) == [2.0, 2.0, 1.0]
    assert list(result.parts[END].values()) == [21.0]
    assert result.torchrun == 4.0
    assert result.start.median == pytest.approx(2.0)  # of 6/3, 12/4 and 8/4
    assert sum(result.parts[START].values()) == 8.0
