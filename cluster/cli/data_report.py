"""What the commands that make a dataset say at their end: where every file ended, and which images are there twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...datasets import ACCOUNT_FILE, Account, Duplicates, Manifest
from .console import print_line

_NAMED_DUPLICATES = 5
_NAMED_CLASSES = 5


def print_result(manifest: Manifest, folder: Path) -> None:
    """Say what was made: a wrong guess at the classes shows in their names."""
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in manifest.splits.items())
    names = ", ".join(manifest.classes[:_NAMED_CLASSES]) + (", …" if len(manifest.classes) > _NAMED_CLASSES else "")
    print_line(f"{manifest.name}: {sizes} images of {len(manifest.classes):,} classes ({names}) in {folder}")


def print_account(account: Account, folder: Path) -> None:
    """Say what became of every file, and where the names of those that are no samples stand."""
    listed = f"; listed in {folder / ACCOUNT_FILE}" if account.left else ""
    print_line(f"{account.line()}{listed}", err=True)


def print_duplicates(found: Sequence[Duplicates], hint: str = "") -> None:
    """Warn of equal images, in a line for each kind; `hint` says what can be done about those in several splits."""
    for duplicates in found:
        _warn(duplicates.across_splits, f"in more than one split, by the same {duplicates.same}", hint)
        _warn(duplicates.across_classes, f"under more than one class, by the same {duplicates.same}")
        _warn(duplicates.within_class, f"more than once in a class of a split, by the same {duplicates.same}")


def _warn(groups: Sequence[Sequence[str]], where: str, hint: str = "") -> None:
    if not groups:
        return
    named = "; ".join(" = ".join(group) for group in groups[:_NAMED_DUPLICATES])
    more = "" if len(groups) <= _NAMED_DUPLICATES else f"; and {len(groups) - _NAMED_DUPLICATES:,} more"
    images = "image is" if len(groups) == 1 else "images are"
    print_line(f"warning: {len(groups):,} {images} {where}: {named}{more}{hint and f' ({hint})'}", err=True)
