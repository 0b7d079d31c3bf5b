"""The house: who may import whom, and which engine has which home (docs/architecture.md has the same table)."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# A place and what of the package it may import beside itself. The longest place that holds a file is its own;
# `orchestration` is the trunk, without its wings.
EFFNET, DATASETS, TRAINING = "effnet", "datasets", "orchestration/training"
TRACKING, REPORT, SEARCH = "orchestration/tracking", "orchestration/report", "orchestration/search"
STUDIES = "orchestration/studies"
SIZING, RUNNING, DRIVER = "orchestration/sizing", "orchestration/running", "orchestration/driver.py"
TRUNK = "orchestration"
ERRORS, LOGS = "orchestration/errors.py", "orchestration/logs.py"
MAY_IMPORT = {
    EFFNET: set(),
    DATASETS: set(),
    ERRORS: {DATASETS},
    LOGS: set(),
    TRAINING: {EFFNET, DATASETS, ERRORS, LOGS},
    SEARCH: {ERRORS, TRAINING},
    SIZING: {EFFNET, ERRORS, TRAINING},
    TRACKING: {EFFNET, DATASETS, ERRORS, TRAINING, SEARCH},
    REPORT: {ERRORS, SEARCH, TRACKING},
    STUDIES: {EFFNET, TRAINING, SEARCH, REPORT},
    TRUNK: (LOWER := {EFFNET, DATASETS, ERRORS, LOGS, TRAINING, SEARCH, SIZING, TRACKING, REPORT, STUDIES}),
    RUNNING: LOWER | {TRUNK},
    DRIVER: LOWER | {TRUNK, RUNNING},
    "benchmarks": LOWER | {TRUNK, RUNNING},
    "cluster": LOWER | {TRUNK, DRIVER, "benchmarks"},
}
FILES = [
    path.relative_to(ROOT)
    for room in ("effnet", "datasets", "orchestration", "benchmarks", "cluster")
    for path in sorted((ROOT / room).rglob("*.py"))
]
# Fewer files are easier to find one's way in; what belongs to one engine goes into a wing.
MOST_TRUNK_FILES, MOST_LINES = 14, 350


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


def place(path: str) -> str:
    """The longest place of the table that a file, or a dotted name as a path, lies in."""
    stems = {p.removesuffix(".py"): p for p in MAY_IMPORT}
    found = [stem for stem in stems if path.removesuffix(".py") == stem or path.startswith(f"{stem}/")]
    return stems[max(found, key=len)]


def users(module: str) -> set[str]:
    """Paths of the rooms' modules that import `module` or something in it. Benchmarks import what they compare with."""
    found = (file for file in FILES if any(starts_with(name, module) for name in imports(file)))
    return {file.as_posix() for file in found if file.parts[0] != "benchmarks"}


def places(module: str) -> set[str]:
    return {place(path) for path in users(module)}


def test_the_reader_of_imports_sees_them_all() -> None:
    """Otherwise every test here would pass on a house without imports."""
    found = set(imports(Path("cluster/cli/submission.py")))
    assert {"click", "effnet_cluster.orchestration.plan.make_plan"} <= found
    assert "effnet_cluster.cluster.cli.console.stderr_console" in found
    assert "effnet_cluster.cluster.home.Home" in found
    inside_a_function = imports(Path("orchestration/running/actor_groups.py"))
    assert "ray.train.torch.TorchTrainer" in set(inside_a_function)
    assert len(FILES) > 100
    assert place("orchestration/training/trainer.py") == TRAINING
    assert place("orchestration/errors/UserError") == ERRORS
    assert place("orchestration/plan.py") == place("orchestration/plan/make_plan") == TRUNK


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_module_imports_only_what_its_place_may(file: Path) -> None:
    own = place(file.as_posix())
    ours = (name.split(".")[1:] for name in imports(file) if starts_with(name, "effnet_cluster"))
    assert {place("/".join(parts)) for parts in ours if parts} <= MAY_IMPORT[own] | {own}


def test_each_engine_has_one_home() -> None:
    assert places("ray.train") | places("ray.tune") == {RUNNING}
    assert places("mlflow") == {TRACKING}
    assert places("webdataset") == {DATASETS}
    assert places("click") | places("cloup") | places("rich") == {"cluster"}
    assert places("ray") == {TRUNK, RUNNING, DRIVER, "cluster"}
    assert {path for path in users("ray") if place(path) == TRUNK} == {"orchestration/ray_tasks.py"}
    assert places("pydantic") <= {TRUNK, TRAINING, SEARCH, SIZING, "cluster"}
    assert places("optuna") <= {SEARCH}
    assert {path.partition("/")[0] for path in users("torchvision")} == {DATASETS, EFFNET}
    baselines = {path for path in users("torchvision") if place(path) == EFFNET}
    assert baselines == {"effnet/baselines/building.py", "effnet/baselines/tracing.py"}
    assert places("torch") == {EFFNET, DATASETS, TRAINING, TRACKING, RUNNING, "cluster"}
    with_torch = {path for path in users("torch") if place(path) == RUNNING}
    assert with_torch == {"orchestration/running/train_worker.py", "orchestration/running/closing.py"}


def test_what_ray_does_not_promise_is_used_in_one_file() -> None:
    leaning = {
        file.as_posix() for file in FILES for name in imports(file) if name.startswith("ray.") and "._" in f".{name}"
    }
    assert leaning == {"orchestration/running/ray_internals.py"}


def test_the_lower_rooms_use_no_engine() -> None:
    for module in ("ray", "mlflow", "click", "pydantic", "yaml", "requests", "timm"):
        assert places(module).isdisjoint({EFFNET, DATASETS})
    assert places("webdataset").isdisjoint({EFFNET})


def test_what_only_tests_need_is_imported_by_no_room() -> None:
    for module in ("timm", "pytest", "hypothesis", "datasets", "playwright"):
        assert users(module) == set()


@pytest.mark.parametrize(
    ("module", "not_loaded"),
    [
        ("orchestration.training", {"ray", "mlflow", "torch"}),
        ("orchestration.training.trainer", {"ray", "mlflow", "click"}),
        ("orchestration.training.__main__", {"ray", "mlflow", "click"}),
        ("orchestration.tracking.runs", {"ray", "torch"}),
        ("orchestration.running.sweep", {"torch", "torchvision"}),
        ("orchestration.running.ray_internals", {"torch", "torchvision"}),
        ("orchestration.driver", {"torch", "torchvision"}),
        ("orchestration.sizing.line", {"ray", "mlflow", "torch"}),
        ("datasets", {"torch", "webdataset", "sklearn"}),
        ("effnet", {"torch"}),
    ],
)
def test_importing_a_module_does_not_load(module: str, not_loaded: set[str]) -> None:
    code = f"import sys, effnet_cluster.{module}; print(sorted({{n.partition('.')[0] for n in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ast.literal_eval(done.stdout))
    assert "effnet_cluster" in loaded
    assert loaded.isdisjoint(not_loaded)


def test_no_file_is_too_long_to_read_and_the_trunk_is_small() -> None:
    long = {file.as_posix() for file in FILES if len((ROOT / file).read_text().splitlines()) > MOST_LINES}
    assert long == set()
    assert len([file for file in FILES if file.parent == Path(TRUNK)]) <= MOST_TRUNK_FILES
