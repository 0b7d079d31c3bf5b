"""Decoding and transforms, against torchvision and Pillow themselves."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_image
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification
from torchvision.transforms.v2 import functional

from effnet_cluster.datasets import Augmentation, DataError, EvalTransform, TrainTransform, decode_rgb, philox

CHINA = Image.fromarray(load_sample_image("china.jpg"))  # 640 x 427


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@settings(max_examples=40, deadline=None)
@given(width=st.integers(33, 300), height=st.integers(33, 300), size=st.integers(8, 32), margin=st.integers(0, 12))
def test_evaluation_is_torchvisions_preset_within_one_level(width: int, height: int, size: int, margin: int) -> None:
    image = CHINA.crop((7, 5, 7 + width, 5 + height))
    preset = ImageClassification(
        crop_size=size,
        resize_size=size + margin,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        interpolation=InterpolationMode.BICUBIC,
    )
    expected = preset(image).mul(255).round().to(torch.uint8)
    output = EvalTransform(size, size + margin)(image)
    assert output.dtype == torch.uint8
    off = (output.int() - expected.int()).abs()
    assert off.max() <= 2
    assert (off > 1).sum() <= 1 + off.numel() / 10_000
    assert (off > 0).sum() <= 8 + off.numel() / 50


@pytest.mark.parametrize("image", [CHINA, CHINA.rotate(90, expand=True)])
def test_evaluation_at_b0_size_equals_torchvisions_preset(image: Image.Image) -> None:
    preset = ImageClassification(
        crop_size=224, resize_size=256, mean=(0, 0, 0), std=(1, 1, 1), interpolation=InterpolationMode.BICUBIC
    )
    off = (EvalTransform(224, 256)(image).int() - preset(image).mul(255).round().int()).abs()
    assert off.max() <= 1
    assert (off > 0).float().mean() < 0.01


def test_a_tiny_image_loses_no_border_in_evaluation() -> None:
    tiny = CHINA.resize((32, 32))
    assert torch.equal(EvalTransform(32, 36)(tiny), torch.from_numpy(np.array(tiny)).permute(2, 0, 1))
    wide = CHINA.resize((40, 30))
    expected = np.array(wide.resize((42, 32), Image.Resampling.BICUBIC))[:, 5:37]
    off = np.abs(EvalTransform(32, 36)(wide).permute(1, 2, 0).numpy() - expected.astype(int))
    assert off.max() <= 1
    assert (off > 0).mean() < 0.02


def test_a_full_crop_is_a_plain_resize() -> None:
    square = CHINA.crop((0, 0, 200, 200))
    transform = TrainTransform(64, seed=0, scale=(1.0, 1.0), ratio=(1.0, 1.0), mirror=False)
    pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1)
    rows = functional.resize(pixels, [64, 200], InterpolationMode.BILINEAR, antialias=True)
    expected = functional.resize(rows, [64, 64], InterpolationMode.BILINEAR, antialias=True)
    by_pillow = np.array(square.resize((64, 64), Image.Resampling.BILINEAR)).astype(int)
    for sample in range(5):
        output = transform(square, 0, sample)
        assert torch.equal(output, expected)
        assert np.abs(output.permute(1, 2, 0).numpy() - by_pillow).max() <= 1


def coordinates(width: int, height: int) -> Image.Image:
    """An image whose red is the column and whose green is the row, so that a crop shows where it was taken."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0] = np.arange(width)[None, :]
    pixels[..., 1] = np.arange(height)[:, None]
    return Image.fromarray(pixels)


def test_crops_keep_to_scale_and_ratio_and_cover_the_image() -> None:
    width, height = 240, 160
    transform = TrainTransform(32, seed=3, scale=(0.2, 0.6), mirror=False)
    image = coordinates(width, height)
    centres, areas, ratios = [], [], []
    for sample in range(400):
        output = transform(image, 0, sample).numpy().astype(float)
        crop_width = (output[0, :, 24] - output[0, :, 8]).mean() * 2
        crop_height = (output[1, 24, :] - output[1, 8, :]).mean() * 2
        areas.append(crop_width * crop_height / (width * height))
        ratios.append(crop_width / crop_height)
        centres.append((output[0].mean() / width, output[1].mean() / height))
    assert min(areas) > 0.17
    assert max(areas) < 0.65
    assert np.mean(areas) == pytest.approx(0.4, abs=0.04)  # uniform in area
    assert min(ratios) > 0.70
    assert max(ratios) < 1.43
    assert np.mean(np.log(ratios)) == pytest.approx(0, abs=0.05)  # uniform in the logarithm
    assert np.mean(centres, axis=0) == pytest.approx([0.5, 0.5], abs=0.03)
    assert np.std(centres, axis=0).min() > 0.05


def test_aspect_ratios_are_uniform_in_the_logarithm() -> None:
    transform = TrainTransform(32, seed=1, scale=(0.06, 0.1), ratio=(0.25, 4.0), mirror=False)
    image = coordinates(240, 160)
    logs = []
    for sample in range(300):
        output = transform(image, 0, sample).numpy().astype(float)
        logs.append(np.log((output[0, 16, 24] - output[0, 16, 8]) / (output[1, 24, 16] - output[1, 8, 16])))
    assert np.median(logs) == pytest.approx(0, abs=0.25)  # uniform in the ratio itself would put it at 0.75
    assert np.std(logs) == pytest.approx(2 * np.log(4) / 12**0.5, abs=0.1)


def test_every_place_of_a_crop_is_equally_likely_up_to_the_last_pixel() -> None:
    transform = TrainTransform(1, seed=0, scale=(1 / 9, 1 / 9), ratio=(1.0, 1.0), mirror=False)
    image = coordinates(3, 3)
    seen = np.zeros((3, 3))
    for sample in range(900):
        column, row, _ = transform(image, 0, sample).flatten().tolist()
        seen[row, column] += 1
    assert ((seen - 100) ** 2 / 100).sum() < 31.8  # chi-squared, 8 degrees, p = 1e-4


def test_half_of_the_images_are_mirrored_and_none_where_that_is_not_safe() -> None:
    image = coordinates(64, 64)
    for mirror, low, high in ((True, 160, 240), (False, 0, 0)):
        transform = TrainTransform(16, seed=0, mirror=mirror)
        outputs = [transform(image, 0, sample)[0, 8].int() for sample in range(400)]
        assert low <= sum(bool(row[0] > row[-1]) for row in outputs) <= high


def seen(output: torch.Tensor) -> tuple[float, float, float, float, bool]:
    """Of a crop from `coordinates`: width, height, and the centre's column and row; and whether it is mirrored."""
    red, green = output[0].double(), output[1].double()
    width = (red[:, -4] - red[:, 3]).mean().item()
    return abs(width), (green[-4] - green[3]).mean().item(), red.mean().item(), green.mean().item(), width < 0


def correlations(first: Any, second: Any) -> Any:
    """Absolute correlations between the columns of two tables with a row per sample."""
    both = np.corrcoef(np.array(first, dtype=float), np.array(second, dtype=float), rowvar=False)
    return np.abs(both[: len(first[0]), len(first[0]) :])


SAMPLES = 1200
INDEPENDENT = 4 / SAMPLES**0.5
"""What the correlation of independent draws exceeds about once in 16,000 times."""


def test_whether_an_image_is_mirrored_says_nothing_about_its_crop() -> None:
    image = coordinates(200, 200)
    transform = TrainTransform(16, seed=2, scale=(0.2, 0.6))
    crops = [seen(transform(image, 0, sample)) for sample in range(SAMPLES)]
    assert correlations([crop[:4] for crop in crops], [crop[4:] for crop in crops]).max() < INDEPENDENT


def test_policy_and_erasing_say_nothing_about_crop_and_flip(monkeypatch: pytest.MonkeyPatch) -> None:
    image = coordinates(200, 200)
    plain = TrainTransform(16, seed=2, scale=(0.2, 0.6))
    crops = [seen(plain(image, 0, sample)) for sample in range(SAMPLES)]
    grey = torch.full((3, 16, 16), 128, dtype=torch.uint8)
    erasing = Augmentation(erasing=0.5)
    boxes = [(erasing.apply(grey, 2, 0, sample) != grey).any(0) for sample in range(SAMPLES)]
    erased = [(bool(box.any()), float(box.float().mean()), *map(float, box[[0, -1]].float().mean(1))) for box in boxes]
    assert correlations(crops, erased).max() < INDEPENDENT
    drawn: list[list[float]] = []

    def noting(picture: Image.Image, magnitude: int, draws: list[float]) -> Image.Image:
        drawn.append(draws)
        return picture

    monkeypatch.setattr("effnet_cluster.datasets.decoding.augmentation.rand_augment", noting)
    for sample in range(SAMPLES):
        Augmentation("rand").apply(grey, 2, 0, sample)
    assert correlations(crops, drawn).max() < INDEPENDENT
    assert correlations(erased, drawn).max() < INDEPENDENT


@pytest.mark.parametrize("policy", ["rand", "auto", "trivial"])
def test_no_two_choices_for_a_sample_are_made_from_the_same_words(monkeypatch: pytest.MonkeyPatch, policy: Any) -> None:
    drawn: list[int] = []
    original = philox.words

    def noting(*key: Any) -> Any:
        drawn.extend(original(*key).tolist())
        return original(*key)

    monkeypatch.setattr(philox, "words", noting)
    TrainTransform(16, seed=2, augmentation=Augmentation(policy, erasing=1.0))(CHINA, 3, 4)
    assert len(set(drawn)) == len(drawn) > 80


def test_augmentation_depends_on_seed_epoch_and_sample_alone() -> None:
    image = CHINA.crop((0, 0, 100, 80))

    def output(seed: int, epoch: int, sample: int) -> bytes:
        return TrainTransform(24, seed=seed)(image, epoch, sample).numpy().tobytes()

    first = output(1, 2, 3)
    np.random.seed(0)
    torch.manual_seed(0)
    assert output(1, 2, 3) == first
    assert len({first, output(0, 2, 3), output(1, 0, 3), output(1, 2, 0), output(1, 3, 2), output(3, 2, 1)}) == 6


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 60), height=st.integers(1, 60), sample=st.integers(0, 2**40))
def test_any_image_gives_a_square(width: int, height: int, sample: int) -> None:
    image = CHINA.crop((0, 0, width, height))
    assert TrainTransform(16, seed=0)(image, 0, sample).shape == (3, 16, 16)
    assert EvalTransform(16, 20)(image).shape == (3, 16, 16)


@pytest.mark.parametrize(
    "arguments",
    [{"image_size": 0}, {"scale": (0.0, 1.0)}, {"scale": (0.9, 0.5)}, {"scale": (0.5, 1.1)}, {"ratio": (0.0, 1.0)}],
)
def test_settings_out_of_range_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        TrainTransform(**{"image_size": 8, "seed": 0, **arguments})
    with pytest.raises(DataError, match="resize"):
        EvalTransform(32, 31)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    """The eight orientations as rotations and flips of the stored pixels (EXIF 2.3, tag 274)."""
    stored = np.array(CHINA.crop((0, 0, 48, 32)))
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: stored.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(stored, 1),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    np.testing.assert_array_equal(np.array(decode_rgb(encode(Image.fromarray(stored), exif=exif))), upright)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_lose_the_picture() -> None:
    data = encode(CHINA, "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    assert decode_rgb(data).size == CHINA.size


def test_every_pixel_format_becomes_rgb() -> None:
    gray = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
    as_rgb = np.repeat(gray[..., None], 3, axis=2)
    np.testing.assert_array_equal(np.array(decode_rgb(encode(Image.fromarray(gray)))), as_rgb)
    wide = gray.astype(np.uint16) * 256 + 77
    np.testing.assert_array_equal(np.array(decode_rgb(encode(Image.fromarray(wide)))), as_rgb)
    palette = CHINA.crop((0, 0, 20, 20)).quantize(16)
    np.testing.assert_array_equal(np.array(decode_rgb(encode(palette))), np.array(palette.convert("RGB")))
    bilevel = Image.fromarray(gray > 100)
    np.testing.assert_array_equal(
        np.array(decode_rgb(encode(bilevel))), np.repeat((gray > 100)[..., None] * 255, 3, axis=2)
    )
    cmyk = decode_rgb(encode(CHINA.convert("CMYK"), "JPEG", quality=95))
    assert np.abs(np.array(cmyk).astype(int) - np.array(CHINA)).mean() < 5


def test_transparency_is_composited_over_white() -> None:
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0, :, 0], rgba[0, :, 3] = 200, (0, 255, 51)
    pixels = np.array(decode_rgb(encode(Image.fromarray(rgba))))
    np.testing.assert_array_equal(pixels[0, 0], [255, 255, 255])
    np.testing.assert_array_equal(pixels[0, 1], [200, 0, 0])
    np.testing.assert_allclose(pixels[0, 2], 0.2 * np.array([200, 0, 0]) + 0.8 * 255, atol=1)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("width", "height"), [(10_000, 9_000), (50_000, 50_000)])
def test_a_decompression_bomb_is_an_error_before_it_is_decoded(width: int, height: int) -> None:
    with pytest.raises(DataError, match="pixels"):
        decode_rgb(png_header(width, height))


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "EPS"])
def test_formats_that_shards_do_not_hold_are_not_opened(kind: str) -> None:
    with pytest.raises(DataError, match="not an image that can be read"):
        decode_rgb(encode(CHINA, kind))


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.98])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_image_is_an_error_in_one_line(kind: str, keep: float) -> None:
    data = encode(CHINA.crop((0, 0, 100, 100)), kind)
    with pytest.raises(DataError) as caught:
        decode_rgb(data[: int(len(data) * keep)])
    assert "\n" not in str(caught.value)


def test_an_encoded_image_above_the_cap_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effnet_cluster.datasets.decoding.images.MAX_IMAGE_BYTES", 100)
    with pytest.raises(DataError, match="bytes, more than the 100 allowed"):
        decode_rgb(encode(CHINA))
