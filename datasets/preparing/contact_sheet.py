"""A contact sheet: one picture that shows some images of every class of a dataset."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ..decoding.images import decode_rgb
from ..errors import DataError
from ..manifest import Manifest
from ..reading.reader import ShardReader
from .inspection import at_hand, spread

MAX_CLASSES = 30
IMAGES_PER_CLASS = 10
_CELL = 96
_GAP = 4
_MAX_NAME_WIDTH = 220
_TITLE_HEIGHT = 40
_TITLE_SIZE, _NAME_SIZE, _COUNT_SIZE = 18, 15, 12
_PAPER, _INK, _FAINT = "white", "black", "#666666"

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(manifest: Manifest, split_name: str = "train", max_classes: int = MAX_CLASSES) -> Image.Image:
    """Up to ten images, evenly spread, of each class; of more than `max_classes` classes, so many spread over them.

    Of a remote dataset only the first shard of the split is fetched; a class that is not in it has an empty row.

    Raises:
        DataError: no such split, a shard cannot be read, or an image is damaged.
    """
    split = manifest.split(split_name)
    rows = at_hand(manifest, split)
    labels = spread(np.arange(len(manifest.classes)), max_classes)
    title_font, name_font, count_font = (ImageFont.load_default(s) for s in (_TITLE_SIZE, _NAME_SIZE, _COUNT_SIZE))
    names = [_fitted(manifest.classes[label], name_font, _MAX_NAME_WIDTH) for label in labels]
    # Room for a count of millions too.
    names_end = 6 * _GAP + int(max(_COUNT_SIZE * 5, *map(name_font.getlength, names)))
    width = names_end + IMAGES_PER_CLASS * (_CELL + _GAP)
    sheet = Image.new("RGB", (width, _TITLE_HEIGHT + len(labels) * (_CELL + _GAP)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    shown = f"{len(labels)} of " if len(labels) < len(manifest.classes) else ""
    title = f"{manifest.name}: {split_name}, {len(split):,} images, {shown}{len(manifest.classes):,} classes"
    draw.text((_GAP * 2, _TITLE_HEIGHT // 2), _fitted(title, title_font, width - 4 * _GAP), _INK, title_font, "lm")
    counts = np.bincount(split.label, minlength=len(manifest.classes))
    reader = ShardReader(manifest, split_name, window=1)
    for line, label in enumerate(labels.tolist()):
        top = _TITLE_HEIGHT + line * (_CELL + _GAP)
        draw.text((_GAP * 2, top + _CELL // 2 - 9), names[line], _INK, name_font, "lm")
        draw.text((_GAP * 2, top + _CELL // 2 + 11), f"{counts[label]:,}", _FAINT, count_font, "lm")
        of_class = rows[split.label[rows] == label]
        for column, sample in enumerate(spread(of_class, IMAGES_PER_CLASS).tolist() if len(of_class) else ()):
            image = ImageOps.contain(_image(reader, sample), (_CELL, _CELL))
            left = names_end + column * (_CELL + _GAP)
            sheet.paste(image, (left + (_CELL - image.width) // 2, top + (_CELL - image.height) // 2))
    reader.close()
    return sheet


def _image(reader: ShardReader, sample: int) -> Image.Image:
    data = reader.read(sample).data
    try:
        return decode_rgb(data)
    except DataError as error:
        raise DataError(f"{reader.where(sample)}: {error}") from error


def _fitted(text: str, font: _Font, width: int) -> str:
    """The text, shortened with an ellipsis to so many pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"
