"""Mixup and CutMix against torchvision's, and as functions of (seed, epoch, batch) on any number of ranks."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms.v2 import CutMix, MixUp

from effnet_cluster.datasets import DataError, Mixing
from effnet_cluster.datasets.decoding.mixing import cut_box, symmetric_beta

CLASSES = 7
IMAGES = torch.randint(0, 256, (6, 3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 4, 6])


def share_of_first(targets: torch.Tensor) -> float:
    """λ, as the labels tell it."""
    return float(targets[0, LABELS[0]])


@pytest.mark.parametrize("images", [IMAGES, IMAGES.float() / 255])
def test_mixup_is_torchvisions_with_the_same_share(images: torch.Tensor) -> None:
    for batch in range(5):
        mixed, targets = Mixing(CLASSES, seed=1, mixup=0.4)(images, LABELS, 2, batch)
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
        mixed, targets = Mixing(CLASSES, seed=1, cutmix=1.0)(images, LABELS, 2, batch)
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
    shares = [float(mixing(images, labels, 0, batch)[1][0, 0]) for batch in range(1200)]
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


@pytest.mark.parametrize("arguments", [{"mixup": 0.2}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}])
def test_every_rank_draws_what_the_whole_batch_draws(arguments: dict[str, float]) -> None:
    """Equal images in both halves: then the slices of two ranks, mixed apart, are the whole, mixed at once."""
    images, labels = torch.cat([IMAGES[:1]] * 4 + [IMAGES[1:2]] * 4), torch.tensor([0] * 4 + [1] * 4)
    mixing = Mixing(CLASSES, seed=3, **arguments)
    seen = set()
    for batch in range(8):
        whole = mixing(images, labels, 1, batch)
        pair = mixing(images[3:5], labels[3:5], 1, batch)
        assert torch.equal(pair[1][1], whole[1][4])
        assert torch.equal(pair[0][1], whole[0][4])
        seen.add(whole[1][4, 1].item())
    assert len(seen) > 5


def test_both_methods_take_half_of_the_batches_each() -> None:
    mixing = Mixing(CLASSES, seed=0, mixup=0.2, cutmix=1.0)
    mixups = sum(mixing(IMAGES, LABELS, 0, batch)[0].is_floating_point() for batch in range(400))
    assert mixups == pytest.approx(200, abs=50)


def test_it_depends_on_seed_epoch_and_batch_alone() -> None:
    def share(seed: int, epoch: int, batch: int) -> float:
        return share_of_first(Mixing(CLASSES, seed=seed, mixup=1.0)(IMAGES, LABELS, epoch, batch)[1])

    first = share(1, 2, 3)
    torch.manual_seed(1)
    np.random.seed(1)
    assert share(1, 2, 3) == first
    assert len({first, share(2, 2, 3), share(1, 3, 3), share(1, 2, 4)}) == 4


def test_without_a_method_images_stay_and_labels_become_one_hot() -> None:
    images, targets = Mixing(CLASSES, seed=0)(IMAGES, LABELS, 0, 0)
    assert images is IMAGES
    assert torch.equal(targets.argmax(1), LABELS)
    assert torch.equal(targets.sum(1), torch.ones(6))


def test_the_input_is_left_alone() -> None:
    before = IMAGES.clone()
    Mixing(CLASSES, seed=0, cutmix=1.0)(IMAGES, LABELS, 0, 0)
    Mixing(CLASSES, seed=0, mixup=1.0)(IMAGES, LABELS, 0, 0)
    assert torch.equal(IMAGES, before)


@pytest.mark.parametrize("arguments", [{"num_classes": 0}, {"mixup": -0.1}, {"cutmix": 2.5}, {"mixup": float("nan")}])
def test_settings_out_of_range_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=next(iter(arguments))):
        Mixing(**{"num_classes": 3, "seed": 0, **arguments})
