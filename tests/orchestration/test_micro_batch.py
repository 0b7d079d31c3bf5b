"""Micro-batches: equal chunks that fit, found by prediction and by trying."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from effnet_cluster.effnet import variant
from effnet_cluster.effnet.memory import estimate
from effnet_cluster.orchestration.training.micro_batch import fitting_images, largest_divisor, probe


@given(st.integers(1, 4096), st.integers(-3, 5000))
def test_chunks_are_equal_and_as_large_as_allowed(share: int, limit: int) -> None:
    size = largest_divisor(share, limit)
    assert share % size == 0
    assert size <= max(limit, 1)
    assert not [n for n in range(size + 1, min(share, limit) + 1) if share % n == 0]


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("images", [1, 2, 7, 64])
def test_exactly_what_the_predictor_says_fits(images: int, checkpointed: bool) -> None:
    config = variant("b0", num_classes=10)
    budget = estimate(config, images, 96, checkpoint_activations=checkpointed).memory.total
    found = fitting_images(config, 96, budget, checkpoint_activations=checkpointed, half=False)
    assert found in (images - 1, images)
    assert estimate(config, max(found, 1), 96, checkpoint_activations=checkpointed).memory.total <= budget
    assert fitting_images(config, 96, budget, checkpoint_activations=checkpointed, half=True) >= found


def test_nothing_fits_into_less_than_the_weights() -> None:
    config = variant("b0")
    assert fitting_images(config, 224, 10_000_000, checkpoint_activations=False, half=False) == 0


@pytest.mark.parametrize(("fits", "expected"), [(100, 24), (24, 24), (23, 12), (5, 3), (1, 1)])
def test_the_probe_goes_down_until_it_fits(fits: int, expected: int) -> None:
    tried = []

    def attempt(size: int) -> None:
        tried.append(size)
        if size > fits:
            raise torch.OutOfMemoryError(f"{size} images")

    assert probe(attempt, 24, 24) == expected
    assert tried == sorted(set(tried), reverse=True)


def test_a_probe_that_nothing_fits_says_so() -> None:
    def attempt(size: int) -> None:
        raise torch.OutOfMemoryError("none")

    with pytest.raises(torch.OutOfMemoryError):
        probe(attempt, 8, 8)
