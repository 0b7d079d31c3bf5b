"""Decoded and augmented images per second on one core: our loaders against the usual alternatives, in one run.

Everyone reads the same JPEGs, in one process and one thread, and ends with batches that a network takes: normalised
float32, the others image by image, as is usual. Our loaders deliver uint8, for the device to normalise; that is a
contestant of its own, as is what we take when the same core has to normalise too. Training is RandomResizedCrop(224)
with torchvision's ranges and a flip; evaluation is Resize(256, bicubic) and CenterCrop(224).
"""

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from PIL import Image

from ..datasets import EvalLoader, Manifest, TrainLoader, prepare
from .pairing import Progress, Ratio, rate, ratio, take_turns

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CROP_SCALE = (0.08, 1.0)
SIZE, RESIZE, BATCH = 224, 256, 64
OURS, OURS_NORMALISED = "effnet-cluster", "effnet-cluster, normalised on the same core"
RAW = "libjpeg-turbo, whole pictures, nothing else"
GENERATED, SCIKIT_LEARN = "generated", "scikit-learn"
Contestants = dict[str, Callable[[], object]]


@dataclass(frozen=True)
class Row:
    """One contestant: images per second on one core, and how many times as fast as it ours is, without and with
    normalising on that core."""

    task: str
    name: str
    images_per_second: float
    ours: Ratio
    ours_normalised: Ratio


def measure(
    images: int = 2048,
    rounds: int = 9,
    photos: str = GENERATED,
    *,
    budget_s: float = math.inf,
    progress: Progress = lambda done, total, what: None,
) -> list[Row]:
    """Measure all contestants, in training and in evaluation.

    Args:
        images: files to make, in two classes, a multiple of the batch; each contestant reads all of them in each round.
        rounds: measured rounds at most, after one of warm-up.
        photos: "generated", blends of crops of scikit-learn's two photographs, 500x375, 35 to 80 kB; or
            "scikit-learn", these photographs themselves over and over, 640x427, 140 to 200 kB.
        budget_s: seconds of each of the two tasks after which no further round begins.
        progress: told of every file written and every contestant's turn.

    Raises:
        ValueError: `images` is no multiple of the batch, so that not everyone would read the same number.
    """
    if images % BATCH:
        raise ValueError(f"images must be a multiple of {BATCH}, got {images}")
    with tempfile.TemporaryDirectory() as folder, _one_thread():
        root = Path(folder)
        write_photos(root / "photos", images, photos, progress)
        manifest = prepare(root / "photos", root / "shards", samples_per_shard=512)
        rows = []
        for task, contestants in (("train", _training(root, manifest)), ("eval", _evaluation(root, manifest))):
            turns = partial(_named, progress, task)
            seconds = take_turns(contestants, rounds, budget_s=budget_s, progress=turns)
            for name in contestants:
                ours, normalised = (ratio(seconds[own], seconds[name]) for own in (OURS, OURS_NORMALISED))
                rows.append(Row(task, name, rate(images, seconds[name]), ours, normalised))
        return rows


def _named(progress: Progress, task: str, done: int, total: int, what: str) -> None:
    progress(done, total, f"{task}: {what}")


def write_photos(root: Path, count: int, photos: str, progress: Progress = lambda done, total, what: None) -> list[int]:
    """Write `count` JPEGs as ROOT/{train,val}/{a,b}/*.jpg, the validation files being links; return their sizes in
    bytes."""
    from sklearn.datasets import load_sample_images

    sample = load_sample_images()
    sizes = []
    for split in ("train", "val"):
        for name in "ab":
            (root / split / name).mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(count):
        progress(number, count, "writing photographs")
        if photos == SCIKIT_LEARN:
            data = Path(sample.filenames[number % 2]).read_bytes()
        else:
            data = _generated(sample.images, number, random)
        file = Path("ab"[number % 2], f"{number:05d}.jpg")
        (root / "train" / file).write_bytes(data)
        (root / "val" / file).hardlink_to(root / "train" / file)
        sizes.append(len(data))
    return sizes


def _generated(photographs: list[Any], number: int, random: np.random.Generator) -> bytes:
    """A blend of a crop of either photograph with a little noise: as hard to decode as a photograph of its size."""
    parts = []
    for pixels in (photographs[number % 2], photographs[1 - number % 2]):
        width = int(random.integers(300, 570))
        height = width * 3 // 4
        left, top = int(random.integers(0, 641 - width)), int(random.integers(0, 428 - height))
        crop = Image.fromarray(pixels[top : top + height, left : left + width])
        parts.append(crop.resize((500, 375), Image.Resampling.BICUBIC))
    blend = np.asarray(Image.blend(parts[0], parts[1], float(random.uniform(0, 0.3))))
    noisy = blend + random.normal(0, 3, (375, 500, 1))
    buffer = BytesIO()
    picture = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    picture.save(buffer, "JPEG", quality=int(random.integers(84, 93)))
    return buffer.getvalue()


def _training(root: Path, manifest: Manifest) -> Contestants:
    from torchvision import transforms

    steps = [transforms.RandomResizedCrop(SIZE, CROP_SCALE), transforms.RandomHorizontalFlip()]
    normalise = _Normalise()
    loader = TrainLoader(manifest, image_size=SIZE, global_batch=BATCH, crop_scale=CROP_SCALE)
    return {
        OURS: lambda: _exhaust(loader.epoch(0)),
        OURS_NORMALISED: lambda: _exhaust(map(normalise, (batch.images for batch in loader.epoch(0)))),
        **_others(root, "train", manifest, steps),
        RAW: _raw(root / "photos" / "train"),
    }


def _evaluation(root: Path, manifest: Manifest) -> Contestants:
    from torchvision import transforms

    steps = [
        transforms.Resize(RESIZE, transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(SIZE),
    ]
    normalise = _Normalise()
    loader = EvalLoader(manifest, image_size=SIZE, resize=RESIZE, batch_size=BATCH)
    return {
        OURS: lambda: _exhaust(loader),
        OURS_NORMALISED: lambda: _exhaust(map(normalise, (batch.images for batch in loader))),
        **_others(root, "val", manifest, steps),
        RAW: _raw(root / "photos" / "val"),
    }


def _others(root: Path, split: str, manifest: Manifest, steps: list[Any]) -> Contestants:
    import webdataset
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    uint8 = transforms.Compose([*steps, transforms.PILToTensor()])
    folder = root / "photos" / split
    shards = [str(manifest.root / shard.name) for shard in manifest.split(split).shards]
    tars = (
        webdataset.WebDataset(shards, shardshuffle=False).decode("pil").to_tuple("jpg", "cls").map_tuple(transform, int)
    )
    contestants: Contestants = {
        "ImageFolder, PIL": partial(_exhaust, DataLoader(ImageFolder(folder, transform), BATCH)),
        "ImageFolder, PIL, uint8 batches": partial(_exhaust, DataLoader(ImageFolder(folder, uint8), BATCH)),
        "webdataset, PIL": partial(_exhaust, DataLoader(tars, BATCH)),
    }
    if find_spec("streaming"):
        contestants["mosaicml-streaming, PIL"] = partial(
            _exhaust, DataLoader(_streaming(folder, root / f"mds-{split}", transform), BATCH)
        )
    return contestants


def _streaming(folder: Path, out: Path, transform: Callable[[Image.Image], torch.Tensor]) -> Any:
    from streaming import MDSWriter, StreamingDataset

    with MDSWriter(out=str(out), columns={"image": "bytes", "label": "int"}) as writer:
        for path in sorted(folder.rglob("*.jpg")):
            writer.write({"image": path.read_bytes(), "label": "ab".index(path.parent.name)})

    class Decoded(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            sample = super().__getitem__(index)
            return transform(Image.open(BytesIO(sample["image"])).convert("RGB")), sample["label"]

    return Decoded(local=str(out), shuffle=False, batch_size=BATCH)


def _raw(folder: Path) -> Callable[[], None]:
    files = [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))]
    pixels = np.empty(max(int(np.prod(simplejpeg.decode_jpeg_header(data)[:2])) for data in files) * 3, dtype=np.uint8)

    def decode_all() -> None:
        for data in files:
            simplejpeg.decode_jpeg(data, buffer=pixels)

    return decode_all


class _Normalise:
    """uint8 (N, 3, H, W) → float32 with ImageNet's mean 0 and deviation 1, channels last, in memory that is used again.

    Image after image: a whole batch at a time would leave the cache between one operation and the next.
    """

    def __init__(self) -> None:
        mean, std = (torch.tensor(values).mul(255).repeat(SIZE) for values in (MEAN, STD))
        self._scale, self._offset = 1 / std, -mean / std
        self._rows = torch.empty((BATCH, SIZE, SIZE * 3))

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        stored = images.permute(0, 2, 3, 1).reshape(len(images), SIZE, SIZE * 3)
        for image, rows in zip(stored, self._rows, strict=False):
            rows.copy_(image)  # a conversion on its way would be slower
            torch.addcmul(self._offset, rows, self._scale, out=rows)
        return self._rows[: len(images)].view(-1, SIZE, SIZE, 3).permute(0, 3, 1, 2)


def _exhaust(batches: Iterable[object]) -> None:
    for _ in batches:
        pass


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
