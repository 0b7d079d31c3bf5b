"""The house: a room imports only from the rooms below it, and each engine has one home."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BELOW = {
    "effnet": set(),
    "datasets": set(),
    "orchestration": {"effnet", "datasets"},
    "benchmarks": {"effnet", "datasets", "orchestration"},
    "cluster": {"effnet", "datasets", "orchestration", "benchmarks"},
}
FILES = [path.relative_to(ROOT) for room in BELOW for path in sorted((ROOT / room).rglob("*.py"))]


def imports(file: Path) -> Iterator[str]:
    """Absolute dotted names of everything that a module imports, anywhere in it; `from a import b` gives `a.b`."""
    package = ("effnet_cluster", *file.parent.parts)
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += (node.module or "").split(".") if node.module else []
            yield from (".".join([*base, alias.name]) for alias in node.names)


def starts_with(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def users(module: str) -> set[str]:
    """Paths of the rooms' modules that import `module` or something in it. Benchmarks import what they compare with."""
    found = (file for file in FILES if any(starts_with(name, module) for name in imports(file)))
    return {file.as_posix() for file in found if file.parts[0] != "benchmarks"}


def rooms(paths: set[str]) -> set[str]:
    return {path.partition("/")[0] for path in paths}


def test_the_reader_of_imports_sees_them_all() -> None:
    """Otherwise every test here would pass on a house without imports."""
    found = set(imports(Path("cluster/cli/submit.py")))
    assert {"click", "effnet_cluster.datasets.Manifest", "effnet_cluster.orchestration.plan.make_plan"} <= found
    assert "effnet_cluster.cluster.cli.console.talk" in found
    assert "effnet_cluster.cluster.home.Home" in found
    assert "mlflow" in set(imports(Path("orchestration/tracking.py")))  # inside a function
    assert len(FILES) > 40


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_module_imports_only_from_its_own_room_and_those_below(file: Path) -> None:
    room = file.parts[0]
    ours = {name.split(".")[1] for name in imports(file) if starts_with(name, "effnet_cluster")}
    assert ours <= BELOW[room] | {room}


def test_each_engine_has_one_home() -> None:
    assert rooms(users("ray.train") | users("ray.tune")) == {"orchestration"}
    assert users("mlflow") == {"orchestration/tracking.py"}
    assert rooms(users("webdataset")) == {"datasets"}
    assert rooms(users("click")) == {"cluster"}
    assert rooms(users("rich")) == {"cluster"}
    assert rooms(users("ray")) == {"orchestration", "cluster"}
    assert rooms(users("pydantic")) == {"orchestration"}
    assert users("torchvision") == {"datasets/preparing/torchvision_source.py"}


def test_the_lower_rooms_use_no_engine() -> None:
    for module in ("ray", "mlflow", "click", "pydantic", "yaml", "requests", "timm"):
        assert rooms(users(module)).isdisjoint({"effnet", "datasets"})
    assert users("webdataset").isdisjoint({"effnet"})


def test_what_only_tests_need_is_imported_by_no_room() -> None:
    for module in ("timm", "pytest", "hypothesis", "datasets", "playwright"):
        assert users(module) == set()
