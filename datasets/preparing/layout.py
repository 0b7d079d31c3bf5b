"""What a tree of images means: which folders are splits, which are classes; refused where it could mean two things.

A wrong guess trains a wrong classifier without a word, so a guess is made only where the names leave no doubt.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from ..manifest import TEST, TRAIN, VAL
from .names import class_name, is_text, printable, split_called, split_within
from .tree import Folder, ImageFile

NO_CLASS, NO_SPLIT, UNLABELLED = "in no class folder", "outside the splits", "without a class"

Splits = Mapping[str, tuple[str, ...]]
"""The folders of each split as a user names them, relative to the source; empty: no folder is a split."""

_SHOWN_FOLDERS = 12


def parse_splits(text: str) -> Splits:
    """From "train=Train,val=Test", or "none". A split may have several folders: train=a,train=b.

    Raises:
        DataError: another form, another split, or no train.
    """
    if text.strip().lower() == "none":
        return {}
    found: dict[str, tuple[str, ...]] = {}
    for part in text.split(","):
        name, equals, folder = part.partition("=")
        split = split_called(name)
        if not equals or split is None or not folder.strip("/ "):
            raise DataError(f"--splits {text}: give train=FOLDER,val=FOLDER,test=FOLDER (train is needed), or none")
        found[split] = (*found.get(split, ()), folder.strip().strip("/"))
    if TRAIN not in found:
        raise DataError(f"--splits {text}: names no folder of train")
    return found


@dataclass(frozen=True)
class Layout:
    """Images by split and class, and those that belong to neither by the reason."""

    splits: dict[str, dict[str, list[ImageFile]]]
    left_out: dict[str, list[ImageFile]]


def understand(root: Folder, splits: Splits | None) -> Layout:
    """Which images of a tree are those of which split and class.

    Folders that only wrap others are seen through.

    Args:
        splits: as the user says; default: by the folders' names.

    Raises:
        DataError: no class folders, or a tree that can be understood in several ways; the message shows the tree, and
            the option that settles it.
    """
    top = _unwrapped(root)
    if splits is None:
        named = _named_splits(root, top)
        classes = {split: _classes(root, folder, sure=False) for split, folder in named.items()}
    elif not splits:
        classes = {TRAIN: _classes(root, top, sure=True)}
    else:
        classes = {split: _chosen(root, top, folders) for split, folders in splits.items()}
    used: set[Path] = set()
    found: dict[str, dict[str, list[ImageFile]]] = {}
    for split in sorted(classes, key=(TRAIN, VAL, TEST).index):
        of_split: dict[str, list[ImageFile]] = {}
        for folder in classes[split]:
            images = list(folder.below())
            if used & {image.path for image in images}:
                raise DataError(f"{folder.path}: is in several splits; name each folder once")
            used |= {image.path for image in images}
            of_split.setdefault(_class_of(folder), []).extend(images)
        if of_split or split == TRAIN:
            found[split] = of_split
    return Layout(found, _left_out(root, top, classes, used))


def _unwrapped(folder: Folder) -> Folder:
    """The first folder that does more than hold one other folder of folders, as flower_photos.tgz's does."""
    while len(inside := folder.with_images) == 1 and split_called(inside[0].name) is None and inside[0].with_images:
        folder = inside[0]
    return folder


def _named_splits(root: Folder, top: Folder) -> dict[str, Folder]:
    """The folders of the splits by their names; where there are none the whole is "train"."""
    named = {folder.path: split for folder in top.with_images if (split := split_within(folder.name))}
    others = [folder for folder in top.with_images if folder.path not in named]
    splits = [folder for folder in top.with_images if folder.path in named]
    if others:
        # A class may well be called test_tube; a folder of folders, or one that is called test, is another thing.
        if any(split_called(folder.name) or folder.with_images for folder in splits):
            names = ", ".join(_shown(folder) for folder in splits)
            raise _ambiguous(root, top, f"{names}: named like a split, but beside other folders")
        return {TRAIN: top}
    if not splits:
        return {TRAIN: top}
    if not any(folder.with_images for folder in splits):
        raise _ambiguous(root, top, "the folders are named like splits, but hold no class folders")
    found: dict[str, Folder] = {}
    for folder in splits:
        split = named[folder.path]
        if split in found:
            raise _ambiguous(root, top, f"{_shown(found[split])} and {_shown(folder)} both look like {split}")
        if split != TEST and not folder.with_images:
            raise _ambiguous(root, top, f"{_shown(folder)}: its images are in no class folders")
        found[split] = folder
    if TRAIN not in found:
        raise _ambiguous(root, top, "no folder of train")
    return {split: folder for split, folder in found.items() if folder.with_images}


def _classes(root: Folder, split: Folder, *, sure: bool) -> list[Folder]:
    """The class folders of a split; unless the user is `sure`, only where they cannot be something else."""
    top = _unwrapped(split)
    classes = top.with_images
    if not classes:
        raise DataError(f"{top.path}: no class folders with images; it should hold CLASS/*.jpg, or use a .csv")
    if empty := [folder for folder in top.folders if not folder.count]:
        raise DataError(f"{empty[0].path}: a class folder without images; add images or remove it")
    if not sure and (doubt := _doubt(classes)):
        raise _ambiguous(root, top, doubt)
    return classes


def _doubt(classes: Sequence[Folder]) -> str | None:
    """Why class folders may be something else: splits with other names, copies, or wrappers."""
    names = {folder.name for folder in classes}
    below = [{inside.name for inside in folder.with_images} for folder in classes]
    for folder, inside in zip(classes, below, strict=True):
        if splits := sorted(name for name in inside if split_called(name)):
            return f"{_shown(folder)}: holds a split's folder, {splits[0]}"
        if len(classes) > 1 and (copies := sorted(inside & names)):
            return f"{_shown(folder)}: holds {copies[0]} once more, which is beside it too"
    if len(classes) > 1 and (common := sorted(set.intersection(*below))):
        return f"all folders hold the same sub-folders, {', '.join(map(printable, common[:3]))}: splits or classes?"
    deep = [folder for folder in classes if not folder.images and len(folder.with_images) > 1]
    flat = [folder for folder in classes if folder.images and not folder.with_images]
    if deep and flat:
        return f"{_shown(deep[0])} holds folders of images, {_shown(flat[0])} images: which of them is a class?"
    return None


def _chosen(root: Folder, top: Folder, folders: Sequence[str]) -> list[Folder]:
    """The class folders of a split whose folders the user has named; */NAME is each class's folder NAME."""
    classes: list[Folder] = []
    for name in folders:
        if (folder := _at(root, name) or _at(top, name)) is not None:
            classes += _classes(root, folder, sure=True)
        elif name.startswith("*/") and (inside := list(_of_each_class(top, name.removeprefix("*/")))):
            classes += inside
        else:
            raise _ambiguous(root, top, f"--splits {name}: no such folder with images")
    return classes


def _of_each_class(top: Folder, name: str) -> Iterator[Folder]:
    for folder in top.with_images:
        if (inside := _at(folder, name)) is not None:
            # The class is called as the folder above.
            yield Folder(folder.path, list(inside.below()), [], inside.count)


def _at(folder: Folder, path: str) -> Folder | None:
    for part in path.split("/"):
        inside = next((one for one in folder.with_images if one.name == part), None)
        if inside is None:
            return None
        folder = inside
    return folder


def _class_of(folder: Folder) -> str:
    if not is_text(folder.name):
        raise DataError(
            f"{printable(str(folder.path))}: the name is not UTF-8, so it can be no class; rename the folder"
        )
    return class_name(folder.name)


def _left_out(
    root: Folder, top: Folder, classes: Mapping[str, Sequence[Folder]], used: set[Path]
) -> dict[str, list[ImageFile]]:
    found: dict[str, list[ImageFile]] = {}
    homes = {above for of_split in classes.values() for folder in of_split for above in folder.path.parents}
    for image in root.below():
        if image.path in used:
            continue
        parent = image.path.parent
        if parent.parent == top.path and split_within(parent.name) == TEST:
            reason = UNLABELLED
        elif parent in homes:
            reason = NO_CLASS
        else:
            reason = NO_SPLIT
        found.setdefault(reason, []).append(image)
    return found


def _ambiguous(root: Folder, top: Folder, problem: str) -> DataError:
    lines = [f"{top.path}: {problem}", "what is there:"]
    for folder in top.with_images[:_SHOWN_FOLDERS]:
        inside = folder.with_images
        names = ", ".join(printable(one.name) for one in inside[:3]) + (", …" if len(inside) > 3 else "")
        folders = f"{_counted(len(inside), 'folder')} ({names}), " if inside else ""
        split = split_within(folder.name)
        lines.append(f"  {_shown(folder)}: {folders}{_counted(folder.count, 'image')}{f'; {split}?' if split else ''}")
    if (more := len(top.with_images) - _SHOWN_FOLDERS) > 0:
        lines.append(f"  and {more} more")
    lines.append(f"say what is what: --splits {_example(root, top)}, or --splits none if each is a class")
    return DataError("\n".join(lines))


def _example(root: Folder, top: Folder) -> str:
    """What the user may mean, as far as names tell."""
    splits = [(split, _shown(folder, root)) for folder in top.with_images if (split := split_within(folder.name))]
    below = [{inside.name for inside in folder.with_images} for folder in top.with_images]
    if not splits and below and (common := sorted(set.intersection(*below))):
        splits = [(split, f"*/{name}") for name in common if (split := split_within(name))]
        return ",".join(f"{split}={folder}" for split, folder in splits) or "train=*/FOLDER,val=*/FOLDER"
    return ",".join(f"{split}={folder}" for split, folder in splits) or "train=FOLDER,val=FOLDER"


def _counted(number: int, thing: str) -> str:
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def _shown(folder: Folder, root: Folder | None = None) -> str:
    path = folder.path.name if root is None else folder.path.relative_to(root.path).as_posix()
    return printable(path)
