"""Policies and random erasing against torchvision, and as functions of the key alone."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.autoaugment import AutoAugment, RandAugment, TrivialAugmentWide, _apply_op

from effnet_cluster.datasets import Augmentation, DataError, Manifest, TrainLoader, TrainTransform
from effnet_cluster.datasets.decoding.augmentation import ERASED
from effnet_cluster.datasets.decoding.policies import (
    FILL,
    IMAGENET_POLICY,
    NARROW,
    OPERATIONS,
    WIDE,
    auto_augment,
    rand_augment,
    trivial_augment,
)
from effnet_cluster.datasets.philox import Domain, uniforms

SIZE = (75, 60)
FLOWER = load_sample_image("flower.jpg")
IMAGE = Image.fromarray(FLOWER[100 : 100 + SIZE[1], 200 : 200 + SIZE[0]])
TENSOR = torch.from_numpy(FLOWER[100:196, 200:296].copy()).permute(2, 0, 1)
LEVELS = range(31)


def by_torchvision(name: str, magnitude: float) -> np.ndarray[Any, Any]:
    return np.array(_apply_op(IMAGE, name, magnitude, InterpolationMode.NEAREST, list(FILL)))


@pytest.mark.parametrize("space", [NARROW, WIDE])
@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_operation_is_torchvisions_to_the_bit(name: str, space: Any) -> None:
    for level in (0, 1, 7, 16, 30):
        magnitude = space.magnitude(name, level / 30, SIZE)
        for signed in (magnitude, -magnitude) if name not in ("Posterize", "Solarize") else (magnitude,):
            np.testing.assert_array_equal(np.array(OPERATIONS[name](IMAGE, signed)), by_torchvision(name, signed))


@pytest.mark.parametrize(
    ("space", "reference", "bins"),
    [
        (NARROW, RandAugment()._augmentation_space(31, SIZE[::-1]), 31),
        (NARROW, AutoAugment()._augmentation_space(10, SIZE[::-1]), 10),
        (WIDE, TrivialAugmentWide()._augmentation_space(31), 31),
    ],
)
def test_ranges_are_torchvisions(space: Any, reference: dict[str, tuple[torch.Tensor, bool]], bins: int) -> None:
    assert reference.keys() <= OPERATIONS.keys()
    for name, (magnitudes, _) in reference.items():
        if magnitudes.ndim:
            ours = [space.magnitude(name, level / (bins - 1), SIZE) for level in range(bins)]
            assert ours == pytest.approx(magnitudes.tolist(), abs=1e-4), name


def test_the_policy_for_imagenet_is_torchvisions() -> None:
    reference = AutoAugment().policies
    assert [[(n, p, m or 0) for n, p, m in pair] for pair in reference] == [list(pair) for pair in IMAGENET_POLICY]


def outcomes(name: str, space: Any, levels: Any = LEVELS) -> dict[bytes, str]:
    """Every picture that torchvision's operation can make of the test image, with either sign."""
    reference = RandAugment()._augmentation_space(31, SIZE[::-1])
    found = {}
    for level in levels:
        magnitude = space.magnitude(name, level / 30, SIZE)
        for sign in (1, -1) if reference[name][1] else (1,):
            found[by_torchvision(name, sign * magnitude).tobytes()] = f"{name}{sign}"
    return found


def test_rand_augment_draws_all_operations_and_signs_alike() -> None:
    known: dict[bytes, str] = {}
    for name in RandAugment()._augmentation_space(31, SIZE):
        known |= outcomes(name, NARROW, (9,))
    grid = [(pick + 0.5) / 14 for pick in range(14)]
    seen = [known[rand_augment(IMAGE, 9, [pick, sign]).tobytes()] for pick in grid for sign in (0.2, 0.8)]
    # 14 operations, of which nine have a sign.
    assert len(set(seen)) == 14 + 9
    assert len(set(known.values())) == 14 + 9


def test_rand_augment_applies_one_operation_after_the_other() -> None:
    first, second = 4.5 / 14, 11.5 / 14
    both = rand_augment(IMAGE, 12, [first, 0.9, second, 0.1])
    one = rand_augment(IMAGE, 12, [first, 0.9])
    assert both.tobytes() == rand_augment(one, 12, [second, 0.1]).tobytes() != one.tobytes()


def test_trivial_augment_draws_one_operation_with_any_magnitude() -> None:
    for number, name in enumerate(TrivialAugmentWide()._augmentation_space(31)):
        known = outcomes(name, WIDE)
        made = {
            trivial_augment(IMAGE, [(number + 0.5) / 14, (level + 0.5) / 31, sign]).tobytes()
            for level in LEVELS
            for sign in (0.1, 0.9)
        }
        assert made == known.keys()


def test_auto_augment_takes_each_step_with_its_probability() -> None:
    for number, ((first, p, level), (second, q, other)) in enumerate(IMAGENET_POLICY):
        pick = (number + 0.5) / 25
        neither = auto_augment(IMAGE, [pick, min(p + 0.01, 0.999), 0.9, min(q + 0.01, 0.999), 0.9])
        if p < 1 and q < 1:
            assert neither.tobytes() == IMAGE.tobytes()
        both = auto_augment(IMAGE, [pick, p - 0.01, 0.9, q - 0.01, 0.9])
        expected = IMAGE
        for name, chance, magnitude in ((first, p, level), (second, q, other)):
            if chance:
                strength = NARROW.magnitude(name, magnitude / 9, SIZE)
                expected = _apply_op(expected, name, strength, InterpolationMode.NEAREST, list(FILL))
        assert both.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "augmentation", [Augmentation("rand"), Augmentation("auto"), Augmentation("trivial"), Augmentation(erasing=0.9)]
)
def test_augmentation_depends_on_seed_epoch_and_sample_alone(augmentation: Augmentation) -> None:

    def results(seed: int, epoch: int) -> list[bytes]:
        return [augmentation.apply(TENSOR, seed, epoch, sample).numpy().tobytes() for sample in range(30)]

    first = results(3, 1)
    np.random.seed(0)
    torch.manual_seed(0)
    assert results(3, 1) == first
    assert len(set(first)) > 10
    assert results(4, 1) != first != results(3, 2)


def test_erasing_takes_boxes_of_torchvisions_sizes_with_its_probability() -> None:
    erased = torch.tensor(ERASED, dtype=torch.uint8)[:, None, None]
    white = torch.full((3, 100, 100), 255, dtype=torch.uint8)
    areas, ratios, centres = [], [], []
    for sample in range(1500):
        image = Augmentation(erasing=0.4).apply(white, 0, 0, sample)
        gone = (image != white).any(0)
        if gone.any():
            rows, columns = (torch.nonzero(gone.any(axis)).flatten() for axis in (1, 0))
            height, width = len(rows), len(columns)
            assert gone.sum() == height * width == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
            assert (image == erased).all(0).sum() == height * width
            areas.append(height * width / 1e4)
            ratios.append(height / width)
            centres.append((rows.float().mean() / 100, columns.float().mean() / 100))
    assert not (white != 255).any()  # the input is left alone
    assert len(areas) / 1500 == pytest.approx(0.4, abs=0.05)
    assert min(areas) > 0.015
    assert max(areas) < 0.345
    assert np.mean(areas) == pytest.approx(0.17, abs=0.015)
    assert 0.27 < min(ratios) < 0.4
    assert 2.5 < max(ratios) < 3.7
    assert np.mean(np.log(ratios)) == pytest.approx(0, abs=0.1), "as often high as wide"
    assert np.mean(centres, axis=0) == pytest.approx([0.5, 0.5], abs=0.03)


def test_erased_boxes_reach_all_borders_alike_and_none_is_cut_off() -> None:
    black, counts = torch.zeros((3, 12, 12), dtype=torch.uint8), Counter[str]()
    for sample in range(2000):
        gone = Augmentation(erasing=1).apply(black, 0, 0, sample).any(0)
        ends = {"top": gone[0], "bottom": gone[-1], "left": gone[:, 0], "right": gone[:, -1]}
        counts.update(border for border, pixels in ends.items() if pixels.any())
    mean = counts.total() / 4
    assert mean > 200
    assert all(counts[border] == pytest.approx(mean, rel=0.25) for border in ("top", "bottom", "left", "right")), counts


def test_the_erased_colour_is_the_mean_that_normalisation_takes_away() -> None:
    assert np.abs(np.array(ERASED) / 255 - (0.485, 0.456, 0.406)).max() < 0.5 / 255


def test_the_transform_augments_what_crop_and_flip_made() -> None:
    image = Image.fromarray(FLOWER[:100, :120])
    plain = TrainTransform(32, seed=1)
    augmented = TrainTransform(32, seed=1, augmentation=Augmentation("trivial", erasing=1.0))
    for sample in range(5):
        expected = augmented.augmentation.apply(plain(image, 2, sample), 1, 2, sample)
        assert torch.equal(augmented(image, 2, sample), expected)
        assert not torch.equal(expected, plain(image, 2, sample))


def test_loader_workers_do_not_change_augmented_batches(photo_shards: Manifest) -> None:
    def images(workers: int, policy: Any) -> torch.Tensor:
        loader = TrainLoader(
            photo_shards,
            image_size=24,
            global_batch=4,
            loader_workers=workers,
            augmentation=Augmentation(policy, erasing=0.3),
        )
        return torch.cat([batch.images for batch in loader.epoch(0)])

    assert torch.equal(images(0, "rand"), images(2, "rand"))
    assert not torch.equal(images(0, "rand"), images(0, "auto"))


def test_a_policy_is_the_one_that_its_name_says() -> None:
    image = Image.fromarray(TENSOR.permute(1, 2, 0).numpy())
    for sample in range(20):

        def draws(count: int, sample: int = sample) -> list[float]:
            return uniforms(count, Domain.POLICY, 3, 1, sample).tolist()

        expected = {
            Augmentation("rand"): rand_augment(image, RandAugment().magnitude, draws(2 * RandAugment().num_ops)),
            Augmentation("rand", operations=1, magnitude=30): rand_augment(image, 30, draws(2)),
            Augmentation("auto"): auto_augment(image, draws(5)),
            Augmentation("trivial"): trivial_augment(image, draws(3)),
            Augmentation(): image,
        }
        for augmentation, picture in expected.items():
            made = augmentation.apply(TENSOR, 3, 1, sample).permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(made, np.array(picture), str(augmentation))


@pytest.mark.parametrize(
    "arguments", [{"operations": 1}, {"magnitude": 0}, {"magnitude": 30}, {"erasing": 0}, {"erasing": 1}]
)
def test_the_ends_of_the_ranges_are_taken(arguments: dict[str, Any]) -> None:
    assert Augmentation("rand", **arguments).apply(TENSOR, 0, 0, 0).shape == TENSOR.shape


@pytest.mark.parametrize(
    "arguments", [{"policy": "mild"}, {"operations": 0}, {"magnitude": 31}, {"magnitude": -1}, {"erasing": 1.5}]
)
def test_settings_out_of_range_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=next(iter(arguments))):
        Augmentation(**arguments)
