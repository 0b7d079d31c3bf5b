"""What travels to the cluster with a job: the four rooms and nothing else, enough to run by itself."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from effnet_cluster.cluster.jobs import Jobs, _staged
from effnet_cluster.orchestration.driver import EXPERIMENT_FILE, ExperimentRequest
from effnet_cluster.orchestration.errors import UserError
from effnet_cluster.orchestration.spec import ExperimentSpec

PACKAGE = Path(__file__).parents[2]
ROOMS = {"effnet", "datasets", "orchestration", "cluster"}


def request() -> ExperimentRequest:
    spec = ExperimentSpec.parse({"name": "x", "variants": "b0", "data": "/nowhere/at/all"})
    return ExperimentRequest(spec, "http://127.0.0.1:1", "/nowhere", "/nowhere")


def test_the_four_rooms_travel_and_nothing_that_is_large_private_or_compiled() -> None:
    with _staged(request()) as folder:
        assert {path.name for path in folder.iterdir()} == {"effnet_cluster", EXPERIMENT_FILE}
        assert {path.name for path in (folder / "effnet_cluster").iterdir()} == ROOMS
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in files) < 2**20
        for path in folder.rglob("*"):
            assert path.name != "__pycache__"
            assert not path.name.startswith(".")
            assert path.suffix != ".pyc"
        for room in ROOMS:
            ours = {path.relative_to(PACKAGE) for path in (PACKAGE / room).rglob("*.py")}
            staged = folder / "effnet_cluster"
            assert {path.relative_to(staged) for path in (staged / room).rglob("*.py")} == ours
        assert ExperimentRequest.from_json((folder / EXPERIMENT_FILE).read_text()) == request()
    assert not folder.exists()


def test_the_driver_runs_from_what_travelled_alone() -> None:
    """Without our installation: -S leaves out the editable finder, and the dependencies are added by hand."""
    code = (
        "import sys, runpy\n"
        f"sys.path[:0] = ['']; sys.path += {[sysconfig.get_path('purelib'), sysconfig.get_path('platlib')]!r}\n"
        f"sys.argv = ['driver', {EXPERIMENT_FILE!r}]\n"
        "try: runpy.run_module('effnet_cluster.orchestration.driver', run_name='__main__')\n"
        "finally: print(*{m.__file__ for n, m in sys.modules.items() if n.startswith('effnet_cluster.')}, sep='\\n')\n"
    )
    with _staged(request()) as folder:
        run = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd=folder)
        files = run.stdout.split()
        assert len(files) > 5
        assert all(Path(file).is_relative_to(folder) for file in files)
    assert run.returncode == 2
    assert run.stderr.startswith("error: /nowhere/at/all: no such folder")
    assert run.stderr.count("\n") == 1


def test_beside_an_installation_what_travelled_wins() -> None:
    code = "import effnet_cluster.orchestration.driver as d; print(d.__file__)"
    with _staged(request()) as folder:
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=True)
        assert Path(run.stdout.strip()).is_relative_to(folder)


@pytest.mark.parametrize("address", ["head:8265", "ray://head:10001", "", "auto"])
def test_an_address_that_is_no_dashboards_is_refused(address: str) -> None:
    with pytest.raises(UserError, match=r"expected the Ray dashboard's, such as http://head-node:8265$"):
        Jobs(address)
