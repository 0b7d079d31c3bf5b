"""Files of the home that a full disk, a lost machine or an editor has broken: they are named, the others go on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from effnet_cluster.cluster.experiments import Experiments
from effnet_cluster.cluster.home import Home
from effnet_cluster.cluster.ray_token import ensure_token, use_token
from effnet_cluster.cluster.services import Services
from effnet_cluster.datasets import Manifest
from effnet_cluster.orchestration.errors import EngineError, UserError
from effnet_cluster.orchestration.tracking.outbox import Outbox
from effnet_cluster.orchestration.training.storage import OWNER_FILE, Storage

from .conftest import Cli, keep
from .test_cli import is_one_line

GOOD = {"jobs": ["x"], "local_ray": False, "local_mlflow": False, "created": 1.0, "address": "http://x", "ended": None}
NO_JSON = {
    "empty": b"",
    "cut short": b'{"request": {"uid": "x", "plan": {"sp',
    "zeros": bytes(4096),
    "not UTF-8": b'{"jobs": ["\xff"]}',
    "without end": b"[" * 100_000,
    "a list": b"[]",
    "a number": b"5",
    "null": b"null",
}
WRONG_FIELDS = {
    "no fields": {},
    "no request": GOOD,
    "jobs": GOOD | {"jobs": "x"},
    "no jobs": GOOD | {"jobs": []},
    "job": GOOD | {"jobs": [1]},
    "date": GOOD | {"created": "yesterday"},
    "far date": GOOD | {"created": 1e300},
    "no number": GOOD | {"created": float("nan")},
    "engine": GOOD | {"local_ray": []},
    "request": GOOD | {"request": 5},
    "more": GOOD | {"colour": "red"},
}
BROKEN = NO_JSON | {name: json.dumps(fields).encode() for name, fields in WRONG_FIELDS.items()}


def break_file(path: Path, content: bytes | None) -> Path:
    """Replace a file; None by a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    return path


@pytest.mark.parametrize("content", [*BROKEN.values(), None], ids=[*BROKEN, "a folder"])
def test_a_broken_record_is_named_and_the_other_experiments_go_on(
    cli: Cli, home: Home, shards: Manifest, content: bytes | None
) -> None:
    keep(home, "good")
    file = break_file(home.experiments / "broken" / "record.json", content)
    experiments = Experiments(home)
    assert set(experiments.names()) == {"good", "broken"}
    assert experiments.free_name("broken") == "broken-2"
    assert "good" not in experiments.local_jobs()
    assert experiments.load("good").name == "good"

    result = cli("list", "--json")
    assert result.exit_code == 0, result.stderr
    rows = {row["experiment"]: row["state"] for row in json.loads(result.stdout)}
    assert rows["good"] == "unknown"
    assert str(file) in rows["broken"]
    assert "good" in cli("list").stdout

    planned = cli("submit", "--dry-run", "--variants", "b0", "--data", shards.root, "--global-batch", 4)
    assert planned.exit_code == 0, planned.stderr
    for verb in ("logs", "stop", "resume", "compare", "report"):
        is_one_line(cli(verb, "broken"), 2, str(file))


@pytest.mark.parametrize("content", [*NO_JSON.values(), None], ids=[*NO_JSON, "a folder"])
def test_a_record_that_says_nothing_is_warned_of(cli: Cli, home: Home, shards: Manifest, content: bytes | None) -> None:
    file = break_file(home.experiments / "broken" / "record.json", content)
    for call in (
        ("list",),
        ("submit", "--dry-run", "--variants", "b0", "--data", shards.root, "--global-batch", 4),
        ("down",),
    ):
        told = [line for line in cli(*call).stderr.splitlines() if line.startswith("warning: ")]
        assert len(told) == 1, call
        assert str(file) in told[0]
        assert "move its folder away" in told[0]


SERVICE = {"name": "ray", "pid": 1, "mark": "x", "url": "http://127.0.0.1:1", "log": "/x", "ready": True}
WRONG_SERVICES = {
    "pid": {"ray": SERVICE | {"pid": "one"}},
    "service": {"ray": 5},
    "url": {"ray": SERVICE | {"url": None}},
    "field": {"ray": {"name": "ray"}},
}


@pytest.mark.parametrize(
    "content",
    [*NO_JSON.values(), *(json.dumps(fields).encode() for fields in WRONG_SERVICES.values()), None],
    ids=[*NO_JSON, *WRONG_SERVICES, "a folder"],
)
def test_a_broken_list_of_services_is_one_line_and_experiments_are_listed_all_the_same(
    cli: Cli, home: Home, content: bytes | None
) -> None:
    keep(home, "good")
    file = break_file(home.root / "services.json", content)
    for call in (("status",), ("status", "--json"), ("up",), ("down",)):
        is_one_line(cli(*call), 1, str(file), "remove it")
    result = cli("list", "--json")
    assert [row["experiment"] for row in json.loads(result.stdout)] == ["good"]
    assert result.stderr.startswith("warning: ")
    assert str(file) in result.stderr


@pytest.mark.parametrize("pid", [-1, 0, 2**40])
def test_a_service_of_an_impossible_process_does_not_run(home: Home, pid: int) -> None:
    home.make()
    (home.root / "services.json").write_text(json.dumps({"ray": SERVICE | {"pid": pid}}))
    assert Services(home).running() == {}


@pytest.mark.parametrize(("content", "told"), [(b"", "is empty"), (b" \n", "is empty"), (None, "cannot be read")])
def test_a_token_that_is_none_is_one_line_that_names_its_file(token: Path, content: bytes | None, told: str) -> None:
    break_file(token, content)
    for ask in (use_token, ensure_token):
        with pytest.raises(EngineError, match=f"^Ray's token {token} {told}"):
            ask()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"another", None])
def test_a_storage_whose_owner_is_not_to_be_read_is_refused_in_one_line(tmp_path: Path, content: bytes | None) -> None:
    break_file(tmp_path / OWNER_FILE, content)
    with pytest.raises(UserError, match=r"^storage .*"):
        Storage(str(tmp_path)).claim("uid")


@pytest.mark.parametrize("content", [b"", b'{"a": 1}\n{"b"', b'5\n"x"\n{"a": 1}\n', b'\xff\xff\n{"a": 1}\n', bytes(64)])
def test_what_a_lost_training_left_for_mlflow_is_read_as_far_as_it_goes(tmp_path: Path, content: bytes) -> None:
    file = break_file(tmp_path / "run.jsonl", content)
    sent: list[object] = []
    outbox = Outbox(sent.extend, file)
    outbox.close(10)
    assert sent == ([{"a": 1}] if b'{"a": 1}' in content else [])
