"""The import names: Hugging Face's `datasets` keeps its own, ours stand under `effnet_cluster`."""

import subprocess
import sys
import sysconfig
import tomllib
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

ROOMS = ("effnet", "datasets", "orchestration", "cluster")


def python(code: str, folder: Path) -> list[str]:
    """Lines that a fresh interpreter prints, run away from the checkout."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder)
    return run.stdout.splitlines()


def test_datasets_is_hugging_faces_and_works_beside_ours(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    file, rows, ours = python(
        "import datasets, effnet_cluster.datasets as ours\n"
        "rows = datasets.Dataset.from_dict({'x': [1, 2, 3]}).map(lambda row: {'y': row['x'] * 2})\n"
        "print(datasets.__file__); print(rows['y'][:]); print(ours.__file__)",
        tmp_path,
    )
    assert Path(file) == Path(sysconfig.get_path("purelib"), "datasets", "__init__.py")
    assert rows == "[2, 4, 6]"
    assert Path(ours) == Path(__file__).parents[2] / "datasets" / "__init__.py"


def test_no_room_is_importable_without_our_name(tmp_path: Path) -> None:
    found = python(
        "from importlib.util import find_spec\n"
        f"for room in {ROOMS}:\n"
        "    spec = find_spec(room)\n"
        "    print(spec.origin if spec else None)\n"
        "    print(find_spec('effnet_cluster.' + room).origin)",
        tmp_path,
    )
    root = Path(__file__).parents[2]
    for room, plain, ours in zip(ROOMS, found[::2], found[1::2], strict=True):
        assert plain == "None" or not Path(plain).is_relative_to(root / room)
        assert Path(ours) == root / room / "__init__.py"


def test_the_command_is_installed() -> None:
    (script,) = entry_points(group="console_scripts", name="effnet-cluster")
    assert script.value == "effnet_cluster.cluster.cli:main"
    command = Path(sysconfig.get_path("scripts"), "effnet-cluster")
    run = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert run.stdout.split()[-1] == version("effnet-cluster")


def test_every_package_folder_is_listed_for_the_wheel() -> None:
    root = Path(__file__).parents[2]
    listed = set(tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {
        path.parent.relative_to(root) for room in (*ROOMS, "benchmarks") for path in (root / room).rglob("__init__.py")
    }
    assert listed == {".".join(("effnet_cluster", *folder.parts)) for folder in found}
    for room in ROOMS:
        assert {path.parent.relative_to(root) for path in (root / room).rglob("*.py")} <= found
