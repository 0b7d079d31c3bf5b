"""Mixup and CutMix against torchvision's, and the same for every sample on any number of ranks."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torchvision.transforms.v2 import CutMix, MixUp

from effnet_cluster.datasets import BatchLayout, DataError, Manifest, Mixing, TrainLoader
from effnet_cluster.datasets.decoding.mixing import cut_box, symmetric_beta

CLASSES = 7
IMAGES = torch.randint(0, 256, (6, 3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 4, 6])
# torchvision mixes each with the one before it; the first with the last.
BEFORE = torch.arange(6).roll(1)
METHODS = [{"mixup": 0.2}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}]


def share_of_first(targets: torch.Tensor) -> float:
    """λ, as the labels tell it."""
    return float(targets[0, LABELS[0]])


@pytest.mark.parametrize("images", [IMAGES, IMAGES.float() / 255])
def test_mixup_is_torchvisions_with_the_same_share(images: torch.Tensor) -> None:
    for batch in range(5):
        mixed, targets = Mixing(CLASSES, seed=1, mixup=0.4)(images, LABELS, BEFORE, 2, batch)
        reference = MixUp(num_classes=CLASSES)
        params = {"lam": share_of_first(targets), "labels": LABELS, "batch_size": len(images)}
        assert mixed.dtype == targets.dtype == torch.float32
        torch.testing.assert_close(targets, reference.transform(LABELS, params))
        torch.testing.assert_close(mixed, reference.transform(images.float(), params), rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(targets.sum(1), torch.ones(6))


@pytest.mark.parametrize("images", [IMAGES, IMAGES.float() / 255])
def test_cutmix_is_torchvisions_with_the_same_box(images: torch.Tensor) -> None:
    boxes = set()
    for batch in range(12):
        mixed, targets = Mixing(CLASSES, seed=1, cutmix=1.0)(images, LABELS, BEFORE, 2, batch)
        assert mixed.dtype == images.dtype
        changed = torch.nonzero((mixed != images).any(0).any(0))
        if len(changed):
            (top, left), (bottom, right) = changed.amin(0).tolist(), (changed.amax(0) + 1).tolist()
        else:
            top = left = bottom = right = 0
        kept = 1 - (bottom - top) * (right - left) / (20 * 30)
        params = {"box": (left, top, right, bottom), "lam_adjusted": kept, "labels": LABELS, "batch_size": len(images)}
        reference = CutMix(num_classes=CLASSES)
        assert torch.equal(mixed, reference.transform(images, params))
        torch.testing.assert_close(targets, reference.transform(LABELS, params))
        boxes.add((left, top, right, bottom))
    assert len(boxes) > 8


@pytest.mark.parametrize("alpha", [0.2, 0.4, 1.0, 2.0])
def test_the_share_follows_a_beta_distribution(alpha: float) -> None:
    images, labels = torch.zeros((2, 3, 1, 1)), torch.tensor([0, 1])
    mixing = Mixing(2, seed=5, mixup=alpha)
    shares = [float(mixing(images, labels, torch.tensor([1, 0]), 0, batch)[1][0, 0]) for batch in range(1200)]
    assert stats.kstest(np.clip(shares, 1e-12, 1), stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_a_tiny_alpha_gives_shares_and_not_an_overflow() -> None:
    for draws in ([0.0, 0.5], [0.5, 0.0], [1 - 2**-53, 0.5], [0.5, 1 - 2**-53], [1 - 2**-53, 1 - 2**-53]):
        assert 0 <= symmetric_beta(0.001, draws) <= 1
    assert symmetric_beta(0.001, [0.9, 0.5]) < 1e-6 < 1 - 1e-6 < symmetric_beta(0.001, [0.5, 0.9])


def test_the_box_covers_its_share_around_any_centre() -> None:
    random = np.random.default_rng(0)
    for _ in range(300):
        share, x, y = random.random(3)
        left, top, right, bottom = cut_box(200, 100, share, x, y)
        assert 0 <= left <= right <= 200
        assert 0 <= top <= bottom <= 100
        area = (right - left) * (bottom - top) / 20_000
        assert area <= 1 - share + 1e-9
        if left > 0 and top > 0 and right < 200 and bottom < 100:
            assert area == pytest.approx(1 - share, abs=0.02)
            assert (left + right) / 2 == pytest.approx(x * 200, abs=1.5)
            assert (top + bottom) / 2 == pytest.approx(y * 100, abs=1.5)


def layouts(batch: int, world: int) -> list[BatchLayout]:
    return [BatchLayout(batch, batch, rank, world, paired=True) for rank in range(world)]


def counts_that_share(batch: int) -> list[int]:
    return [world for world in range(1, batch + 1) if batch % world == 0]


@given(batch=st.integers(2, 60))
def test_pairs_are_those_of_the_global_batch_at_any_number_of_ranks(batch: int) -> None:
    (whole,) = layouts(batch, 1)
    pairs = dict(zip(whole.offsets.tolist(), whole.offsets[whole.partner_rows].tolist(), strict=True))
    assert list(pairs) == list(range(batch))
    assert all(pairs[sample] != sample for sample in pairs)
    # Neighbours with each other, but for the last of an odd number.
    assert all(pairs[pairs[sample]] == sample for sample in range(batch - batch % 2))
    for world in counts_that_share(batch):
        found = {}
        for layout in layouts(batch, world):
            own = layout.offsets[: layout.local_batch].tolist()
            found |= dict(zip(own, layout.offsets[layout.partner_rows].tolist(), strict=True))
            more = len(layout.offsets) - len(own)
            # What a rank reads for others' sake: nothing with slices of an even length, never more than two.
            assert more <= (0 if len(own) % 2 == 0 else 2)
            assert len(set(layout.offsets.tolist())) == len(layout.offsets)
        assert found == pairs


@pytest.mark.parametrize("arguments", METHODS)
@pytest.mark.parametrize("batch", [2, 3, 6, 9, 12])
def test_ranks_mix_their_samples_as_the_whole_batch_at_once_does(arguments: dict[str, float], batch: int) -> None:
    images = torch.randint(0, 256, (batch, 3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    assert len({image.numpy().tobytes() for image in images}) == batch
    labels = torch.arange(batch) % CLASSES
    mixing = Mixing(CLASSES, seed=3, **arguments)

    def mixed(layout: BatchLayout, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.from_numpy(layout.offsets)
        return mixing(images[rows], labels[rows], torch.from_numpy(layout.partner_rows), 1, number)

    changed = 0
    for number in range(6):
        whole = mixed(layouts(batch, 1)[0], number)
        assert len(whole[0]) == len(whole[1]) == batch
        changed += int(not torch.equal(whole[0], images.to(whole[0].dtype)))
        for world in counts_that_share(batch):
            parts = [mixed(layout, number) for layout in layouts(batch, world)]
            for column in (0, 1):
                assert torch.equal(torch.cat([part[column] for part in parts]), whole[column])
    assert changed >= 4


@pytest.mark.parametrize("arguments", METHODS)
@pytest.mark.parametrize(("global_batch", "workers", "tail"), [(4, 0, "drop"), (4, 2, "drop"), (6, 0, "carry")])
def test_the_loaders_of_any_number_of_ranks_lead_to_the_same_mixed_images(
    photo_shards: Manifest, arguments: dict[str, float], global_batch: int, workers: int, tail: Any
) -> None:
    """One sample per rank included: then the partner is another rank's sample."""
    mixing = Mixing(CLASSES, seed=3, **arguments)

    def mixed(rank: int, world: int) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        loader = TrainLoader(
            photo_shards,
            image_size=24,
            global_batch=global_batch,
            rank=rank,
            world_size=world,
            tail=tail,
            loader_workers=workers,
            paired=True,
        )
        found = []
        for number, batch in enumerate(loader.epoch(1, 1), start=1):
            assert batch.partners is not None
            assert len(batch.sample_ids) == len(batch.positions) == len(batch.mask) == global_batch // world
            found.append((*mixing(batch.images, batch.labels, batch.partners, 1, number), batch.sample_ids))
        return found

    whole = mixed(0, 1)
    assert len(whole) in (2, 3)
    for world in counts_that_share(global_batch)[1:]:
        ranks = [mixed(rank, world) for rank in range(world)]
        for number, expected in enumerate(whole):
            for column in range(3):
                assert torch.equal(torch.cat([rank[number][column] for rank in ranks]), expected[column])


def test_a_global_batch_of_one_has_nothing_to_mix(photo_shards: Manifest) -> None:
    with pytest.raises(DataError, match="mixup and CutMix take two images to mix; use a global batch of at least 2"):
        TrainLoader(photo_shards, image_size=8, global_batch=1, paired=True)


def test_both_methods_take_half_of_the_batches_each() -> None:
    mixing = Mixing(CLASSES, seed=0, mixup=0.2, cutmix=1.0)
    mixups = sum(mixing(IMAGES, LABELS, BEFORE, 0, batch)[0].is_floating_point() for batch in range(400))
    assert mixups == pytest.approx(200, abs=50)


def test_it_depends_on_seed_epoch_and_batch_alone() -> None:
    def share(seed: int, epoch: int, batch: int) -> float:
        return share_of_first(Mixing(CLASSES, seed=seed, mixup=1.0)(IMAGES, LABELS, BEFORE, epoch, batch)[1])

    first = share(1, 2, 3)
    torch.manual_seed(1)
    np.random.seed(1)
    assert share(1, 2, 3) == first
    assert len({first, share(2, 2, 3), share(1, 3, 3), share(1, 2, 4)}) == 4


def test_without_a_method_images_stay_and_labels_become_one_hot() -> None:
    images, targets = Mixing(CLASSES, seed=0)(IMAGES, LABELS, BEFORE, 0, 0)
    assert torch.equal(images, IMAGES)
    assert torch.equal(targets.argmax(1), LABELS)
    assert torch.equal(targets.sum(1), torch.ones(6))


def test_the_input_is_left_alone() -> None:
    before = IMAGES.clone()
    Mixing(CLASSES, seed=0, cutmix=1.0)(IMAGES, LABELS, BEFORE, 0, 0)
    Mixing(CLASSES, seed=0, mixup=1.0)(IMAGES, LABELS, BEFORE, 0, 0)
    assert torch.equal(IMAGES, before)


@pytest.mark.parametrize("arguments", [{"num_classes": 0}, {"mixup": -0.1}, {"cutmix": 2.5}, {"mixup": float("nan")}])
def test_settings_out_of_range_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=next(iter(arguments))):
        Mixing(**{"num_classes": 3, "seed": 0, **arguments})


@pytest.mark.parametrize("arguments", [{"mixup": 2.0}, {"cutmix": 2.0}, {"num_classes": 1, "mixup": 1.0}])
def test_the_ends_of_the_ranges_are_in_them(arguments: dict[str, Any]) -> None:
    mixing = Mixing(**{"num_classes": CLASSES, "seed": 0, **arguments})
    _, targets = mixing(IMAGES, torch.zeros_like(LABELS), BEFORE, 0, 0)
    torch.testing.assert_close(targets.sum(1), torch.ones(len(targets)))


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_an_alpha_just_above_the_largest_is_refused(name: str) -> None:
    with pytest.raises(DataError, match=f"{name} must be between 0"):
        Mixing(num_classes=4, seed=0, **{name: 2.001})
