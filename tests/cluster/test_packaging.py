"""What is installed: our import names beside Hugging Face's `datasets`, the lock files, pip's settings for uv."""

import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
ROOMS = ("effnet", "datasets", "orchestration", "cluster")
PYTHONS = ("3.11", "3.12", "3.13")


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
    assert Path(ours) == ROOT / "datasets" / "__init__.py"


def test_no_room_is_importable_without_our_name(tmp_path: Path) -> None:
    found = python(
        "from importlib.util import find_spec\n"
        f"for room in {ROOMS}:\n"
        "    spec = find_spec(room)\n"
        "    print(spec.origin if spec else None)\n"
        "    print(find_spec('effnet_cluster.' + room).origin)",
        tmp_path,
    )
    for room, plain, ours in zip(ROOMS, found[::2], found[1::2], strict=True):
        assert plain == "None" or not Path(plain).is_relative_to(ROOT / room)
        assert Path(ours) == ROOT / room / "__init__.py"


def test_the_command_is_installed() -> None:
    (script,) = entry_points(group="console_scripts", name="effnet-cluster")
    assert script.value == "effnet_cluster.cluster.cli:main"
    command = Path(sysconfig.get_path("scripts"), "effnet-cluster")
    run = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert run.stdout.split()[-1] == version("effnet-cluster")


def test_every_package_folder_is_listed_for_the_wheel() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {
        path.parent.relative_to(ROOT) for room in (*ROOMS, "benchmarks") for path in (ROOT / room).rglob("__init__.py")
    }
    assert listed == {".".join(("effnet_cluster", *folder.parts)) for folder in found}
    for room in ROOMS:
        assert {path.parent.relative_to(ROOT) for path in (ROOT / room).rglob("*.py")} <= found


def locked(name: str) -> dict[str, list[tuple[Requirement, list[str]]]]:
    """Package → its entries of a lock file: the pin, with its marker, and the hashes of its files."""
    lines = (ROOT / name).read_text().replace("\\\n", " ").splitlines()
    packages: dict[str, list[tuple[Requirement, list[str]]]] = {}
    for line in lines:
        if line and not line.startswith((" ", "#")):
            pin, *hashes = re.split(r"\s+--hash=", line.strip())
            requirement = Requirement(pin)
            packages.setdefault(canonicalize_name(requirement.name), []).append((requirement, hashes))
    return packages


def direct_dependencies(*extras: str) -> list[Requirement]:
    """What pyproject.toml asks for, with what these extras ask for in turn."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    found = []
    for requirement in map(Requirement, listed):
        if requirement.name == project["name"]:
            found += direct_dependencies(*requirement.extras)
        else:
            found.append(requirement)
    return found


@pytest.mark.parametrize("python_version", PYTHONS)
@pytest.mark.parametrize(("name", "extras"), [("requirements.lock", ()), ("requirements-dev.lock", ("dev",))])
def test_the_lock_holds_every_direct_dependency_within_its_bounds(
    name: str, extras: tuple[str, ...], python_version: str
) -> None:
    environment = {"python_version": python_version, "python_full_version": f"{python_version}.0"}
    packages = locked(name)
    for requirement in direct_dependencies(*extras):
        pins = [
            pin
            for pin, _ in packages.get(canonicalize_name(requirement.name), [])
            if pin.marker is None or pin.marker.evaluate(environment)
        ]
        assert len(pins) == 1, f"{requirement.name}: run `make lock`"
        (pinned,) = pins[0].specifier
        assert pinned.operator == "=="
        assert requirement.specifier.contains(pinned.version), f"{requirement}, locked {pins[0]}: run `make lock`"


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_the_lock_names_the_hashes_of_every_package(name: str) -> None:
    entries = [entry for package in locked(name).values() for entry in package]
    assert entries
    for pin, hashes in entries:
        assert hashes, pin
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes), pin


def test_the_locks_agree_with_each_other_and_with_the_constraints() -> None:
    runtime, dev = locked("requirements.lock"), locked("requirements-dev.lock")
    pins = {package: {str(pin.specifier) for pin, _ in entries} for package, entries in dev.items()}
    for package, entries in runtime.items():
        assert {str(pin.specifier) for pin, _ in entries} == pins[package], package
    held = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert held
    for requirement in map(Requirement, held):
        assert pins[canonicalize_name(requirement.name)] == {str(requirement.specifier)}


def uv_environment(folder: Path, pip_conf: str, **environ: str) -> dict[str, str]:
    """What install.py hands to uv beside `environ`, under a pip.conf of this content."""
    spec = importlib.util.spec_from_file_location("install", ROOT / "install.py")
    assert spec is not None
    assert spec.loader is not None
    install = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(install)
    (folder / "pip.conf").write_text(pip_conf)
    run = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        env={"PATH": os.environ["PATH"], "PIP_CONFIG_FILE": str(folder / "pip.conf"), "HOME": str(folder), **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, str] = install.uv_environment(run.stdout, environ)
    return found


def test_uv_is_told_pips_settings(tmp_path: Path) -> None:
    conf = (
        "[global]\nindex-url = https://mirror.example/simple\ncert = /etc/company.pem\ntimeout = 99\n"
        "extra-index-url =\n    https://one.example/simple\n    https://user:p%40ss@two.example/simple\n"
        "find-links = /wheels\n    /more-wheels\ntrusted-host = mirror.example\n"
    )
    assert uv_environment(tmp_path, conf).items() >= {
        ("UV_DEFAULT_INDEX", "https://mirror.example/simple"),
        ("UV_INDEX", "https://one.example/simple https://user:p%40ss@two.example/simple"),
        ("UV_FIND_LINKS", "/wheels,/more-wheels"),
        ("SSL_CERT_FILE", "/etc/company.pem"),
        ("UV_INSECURE_HOST", "mirror.example"),
        ("UV_HTTP_TIMEOUT", "99"),
    }


def test_pips_variables_win_over_pip_conf_and_uvs_over_both(tmp_path: Path) -> None:
    conf = "[global]\nfind-links = /conf\nindex-url = https://conf.example/simple\n"
    environ = {"PIP_FIND_LINKS": "/environment", "PIP_INDEX_URL": "https://pip.example/simple"}
    told = uv_environment(tmp_path, conf, **environ, UV_DEFAULT_INDEX="https://uv.example/simple")
    assert told["UV_FIND_LINKS"] == "/environment"
    assert told["UV_DEFAULT_INDEX"] == "https://uv.example/simple"
