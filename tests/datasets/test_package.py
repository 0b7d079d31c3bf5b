"""The room's manners: what it imports, and that importing it is cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import effnet_cluster.datasets as datasets

ROOM = Path(datasets.__file__).parent


def test_importing_the_room_imports_neither_torch_nor_webdataset() -> None:
    code = (
        "import sys, effnet_cluster.datasets as d; d.Manifest, d.prepare, d.EpochOrder, d.open_dataset;"
        "print([m for m in ('torch', 'torchvision', 'webdataset', 'sklearn') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    assert all(getattr(datasets, name) is not None for name in datasets.__all__)
    assert callable(datasets.prepare)
    assert not hasattr(datasets, "nonsense")


def test_the_room_imports_nothing_from_above_or_beside() -> None:
    allowed = {
        "numpy",
        "PIL",
        "torch",
        "webdataset",
        "sklearn",
        "simplejpeg",
        "fsspec",
        "aiohttp",
        "pillow_heif",
        "zstandard",
    }
    allowed |= set(sys.stdlib_module_names)
    for path in ROOM.rglob("*.py"):
        allowed_here = allowed | ({"torchvision"} if path.name == "torchvision_source.py" else set())
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed_here, path
            elif isinstance(node, ast.ImportFrom) and node.level:
                assert node.level <= len(path.relative_to(ROOM).parts), path
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] in allowed_here, path


def test_another_system_is_told_at_import() -> None:
    code = "import sys; sys.platform = 'win32'; import effnet_cluster.datasets"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    told = "ImportError: effnet-cluster runs on Linux alone, not on win32; use a Linux machine or container"
    assert run.stderr.splitlines()[-1] == told
