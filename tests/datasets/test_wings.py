"""The datasets' packages: each imports only what stands below it, and their first lines are all there."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import effnet_cluster.datasets as datasets

ROOM = Path(datasets.__file__).parent
FILES = [path.relative_to(ROOM) for path in sorted(ROOM.rglob("*.py"))]
# What each package, and each file that stands outside of them, may import of this room besides its own files.
BASE = {"errors", "files", "philox", "addresses", "surroundings"}
BELOW = {
    "errors": set(),
    "files": {"errors"},
    "addresses": {"errors"},
    "philox": {"errors"},
    "surroundings": {"errors"},
    "remote": BASE,
    "decoding": BASE,
    "manifest": BASE | {"remote", "decoding"},
    "verify": BASE | {"remote", "decoding", "manifest"},
    "reading": BASE | {"remote", "decoding", "manifest", "verify"},
    "preparing": BASE | {"remote", "decoding", "manifest", "verify", "reading"},
}


def imports(file: Path) -> Iterator[str]:
    """Of which packages or files of this room a file imports something, wherever in it."""
    package = file.parts[:-1]
    for node in ast.walk(ast.parse((ROOM / file).read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level <= len(package) + 1, f"{file}:{node.lineno} imports from outside of the room"
            path = (*package[: len(package) + 1 - node.level], *(node.module or "").split("."))
            yield from {path[0]} if path[0] else {alias.name for alias in node.names}


def home(file: Path) -> str:
    return file.parts[0] if len(file.parts) > 1 else file.stem


def test_the_reader_of_imports_sees_them() -> None:
    """Otherwise the test below would pass on a room without imports."""
    assert {"errors", "manifest", "remote"} <= set(imports(Path("verify.py")))
    assert {"decoding", "manifest", "reading"} <= set(imports(Path("reading/loader.py")))
    assert {home(file) for file in FILES} == {*BELOW, "__init__"}


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_imports_only_its_own_package_and_what_is_below(file: Path) -> None:
    if file != Path("__init__.py"):
        assert set(imports(file)) <= BELOW[home(file)] | {home(file)}


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_says_what_it_is_and_stays_readable(file: Path) -> None:
    text = (ROOM / file).read_text()
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 350


def test_the_lazy_names_are_those_that_type_checkers_see() -> None:
    tree = ast.parse(Path(datasets.__file__).read_text())
    seen = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }
    assert seen == datasets._HOME_OF
    assert sorted(seen) == sorted(datasets.__all__)
