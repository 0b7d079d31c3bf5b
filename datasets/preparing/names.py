"""What the names of a source mean: which are splits, in what order classes stand, which files a system left behind."""

import re
import unicodedata
from collections.abc import Iterable

from ..manifest import TEST, TRAIN, VAL

_WORDS = {
    **dict.fromkeys(("train", "training", "trainset"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "valset", "dev", "devset"), VAL),
    **dict.fromkeys(("test", "testing", "testset"), TEST),
}
SPLIT_WORDS = ", ".join(
    f"{split} ({', '.join(w for w, s in _WORDS.items() if s == split)})" for split in (TRAIN, VAL, TEST)
)
"""The names of the splits and what else they are called, for help and messages."""

_LETTERS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_DIGITS = re.compile(r"([0-9]+)")
# Left behind by macOS, Windows, Synology, Jupyter, ext4 and Python; no user means them as data.
_SYSTEM = frozenset(
    {
        "__macosx",
        "@eadir",
        "#recycle",
        "$recycle.bin",
        "system volume information",
        "lost+found",
        "__pycache__",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
    }
)


def split_called(name: str) -> str | None:
    """The split that a name is, whatever its case: "Validation" is "val"; None where it is no split's name."""
    return _WORDS.get(name.strip().lower())


def split_within(name: str) -> str | None:
    """The one split that is a word of a longer name: train_images, seg-test, val2017, TrainSet; else None.

    "train-val" names two and is none.
    """
    if (exact := split_called(name)) is not None:
        return exact
    found = {_WORDS[word.lower()] for word in _LETTERS.findall(name) if word.lower() in _WORDS}
    return found.pop() if len(found) == 1 else None


def class_order(names: Iterable[str]) -> tuple[str, ...]:
    """Class names in the order of their labels: runs of digits compare as numbers, 2 before 10, the rest as text."""
    return tuple(sorted(set(names), key=natural_key))


def natural_key(name: str) -> tuple[tuple[tuple[int, str], ...], str]:
    """A key that sorts runs of digits as numbers, and otherwise as text."""
    # The digits are at the odd places. Of two numbers without leading zeros the longer is the larger.
    parts = [part.lstrip("0") if place % 2 else part for place, part in enumerate(_DIGITS.split(name))]
    return tuple((len(part) if place % 2 else 0, part) for place, part in enumerate(parts)), name


def class_name(text: str) -> str:
    """The one spelling of a class name: Unicode's composed form, since macOS and others write ö differently."""
    return unicodedata.normalize("NFC", text)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, as .DS_Store and ._x.jpg are."""
    return name.startswith(".")


def is_system(name: str) -> bool:
    """Whether a file or folder was left behind by a system or program: __MACOSX, @eaDir, Thumbs.db."""
    return name.lower() in _SYSTEM


def is_text(name: str) -> bool:
    """Whether a name is UTF-8; other bytes come from the file system as surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(name: str) -> str:
    """A name that any terminal and JSON can hold: bytes that are no UTF-8 are written as escapes."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
