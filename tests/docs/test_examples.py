"""The examples with their outputs (docs/your-data.md): each tree is made, and each command says what stands there."""

import io
import re
import shlex
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from effnet_cluster.cluster.cli import main

from ..datasets.trees import make_tree, picture
from .pages import PAGES

BLOCK = re.compile(r"^```(tree|console|file)(?: (\S+))?\n(.*?)^```$", re.M | re.S)


def examples() -> Iterator[tuple[str, dict[str, str], str, str]]:
    """Each command with the tree and the files that stand before it, and the output that the page promises."""
    for page in PAGES:
        tree, files = "", dict[str, str]()
        for kind, name, text in BLOCK.findall(page.read_text("utf-8")):
            if kind == "tree":
                tree, files = text, {}
            elif kind == "file":
                files[name] = text
            else:
                command, _, output = text.removeprefix("$ ").partition("\n")
                yield tree, dict(files), command, output


EXAMPLES = list(examples())


def shard(name: str, samples: int) -> bytes:
    """A tar of so many pictures of two classes in turns."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(samples):
            for extension, data in (
                ("png", picture(zlib.crc32(name.encode()) % 10**6 + number)),
                ("cls", b"%d" % (number % 2)),
            ):
                info = tarfile.TarInfo(f"{number:04d}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def run(tree: str, files: dict[str, str], command: str, folder: Path) -> str:
    content: dict[str, int | str | bytes] = dict(files)
    for line in tree.splitlines():
        name, _, count = line.partition(": ")
        number = int(count.split()[0]) if count else 0
        content[name] = shard(name, number) if "samples" in count else number or "no image"
    make_tree(folder, content)
    words = shlex.split(command)
    assert words.pop(0) == "effnet-cluster"
    result = CliRunner().invoke(main, words, prog_name="effnet-cluster")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result.output.replace(f"{folder}/", "")


@pytest.mark.parametrize(("tree", "files", "command", "output"), EXAMPLES, ids=[example[2] for example in EXAMPLES])
def test_an_example_says_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree: str, files: dict[str, str], command: str, output: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(tree, files, command, tmp_path) == output


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 10
