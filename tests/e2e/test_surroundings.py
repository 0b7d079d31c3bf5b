"""One experiment in bad surroundings: a proxy, a home of an odd name, a long TMPDIR, modules in the folder."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..photos import cut_photos
from .conftest import Cli

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
NOWHERE = "http://127.0.0.1:9"
TRAPS = ("random", "json", "pickle", "socket", "ray", "numpy", "torch", "mlflow", "uvicorn", "yaml", "click", "psutil")


class Office(Cli):
    """In a folder of files named as modules."""

    @property
    def env(self) -> dict[str, str]:
        own = {name: value for name, value in super().env.items() if not name.lower().endswith("_proxy")}
        proxies = {"http_proxy": NOWHERE, "https_proxy": NOWHERE, "all_proxy": NOWHERE, "grpc_proxy": NOWHERE}
        return own | proxies | {"TMPDIR": str(self.home.parent / ("t" * 100)), "HOME": str(self.home.parent)}


@pytest.fixture
def office() -> Iterator[Office]:
    with tempfile.TemporaryDirectory(prefix="effnet-", dir="/tmp") as folder:
        office = Office(Path(folder, "Häuser 1%41?x#y 'z' [a]"))
        office.home.mkdir()
        Path(office.env["TMPDIR"]).mkdir()
        for name in TRAPS:
            (office.home / f"{name}.py").write_text(f"open({folder + '/caught'!r}, 'a').write({name!r})\n")
        try:
            yield office
        finally:
            office("down", "--force", timeout=180, check=False)


def test_an_experiment_trains_where_everything_is_odd(office: Office) -> None:
    settings = ("--variants", "b0-w0.5-d0.5", "--epochs", "1", "--workers", "2", "--loader-workers", "1")
    done = office("submit", *settings, "--name", "odd", timeout=600)
    assert "completed" in done.stdout
    assert [row["state"] for row in json.loads(office("list", "--json").stdout)] == ["completed"]
    assert office("logs", "odd", "-f", timeout=60).stdout
    office("verify", "odd")
    (checkpoint,) = {path.parent.parent for path in (office.home / "experiments" / "odd").rglob("*.pt")}
    assert checkpoint.is_relative_to(office.home)
    photos = cut_photos(office.home.parent / "photos", (40, 50), 5)
    prepared = office("data", "prepare", str(photos), str(office.home.parent / "out"), "--ray", timeout=180)
    assert prepared.stdout.startswith("photos: 8 train, 2 val images")
    assert not (office.home.parent / "caught").exists(), (office.home.parent / "caught").read_text()
