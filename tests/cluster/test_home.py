"""Where things are kept, and records that survive being written and read."""

import json
import multiprocessing
from pathlib import Path

import pytest

from effnet_cluster.cluster.engines import Engines
from effnet_cluster.cluster.experiments import Experiments, next_job
from effnet_cluster.cluster.home import Home
from effnet_cluster.datasets import Manifest
from effnet_cluster.orchestration.errors import UserError
from effnet_cluster.orchestration.plan import make_plan
from effnet_cluster.orchestration.request import ExperimentRequest
from effnet_cluster.orchestration.spec import ExperimentSpec

from .conftest import make_request

ENGINES = Engines("http://127.0.0.1:8265", "http://127.0.0.1:5000", local_ray=True, local_mlflow=False)


def request(name: str) -> ExperimentRequest:
    return make_request(name, ENGINES.tracking_uri, variants="b0-b2", seeds=[1, 2], recipe={"epochs": 3})


def test_the_home_is_the_users_unless_the_variable_names_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for unset in ("", None):
        monkeypatch.delenv("EFFNET_CLUSTER_HOME") if unset is None else monkeypatch.setenv("EFFNET_CLUSTER_HOME", unset)
        assert Home.default().root == tmp_path / ".effnet-cluster"
    monkeypatch.setenv("EFFNET_CLUSTER_HOME", "~/elsewhere")
    assert Home.default().root == tmp_path / "elsewhere"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EFFNET_CLUSTER_HOME", "relative")
    assert Home.default().root == tmp_path / "relative"
    assert not Home.default().root.exists()


def test_everything_is_kept_below_the_root(tmp_path: Path) -> None:
    home = Home(tmp_path)
    places = [home.experiments, home.cache, home.logs, home.mlflow]
    assert len(set(places)) == 4
    assert {place.parent for place in places} == {tmp_path}


def test_the_home_is_closed_to_other_users_whatever_it_was(tmp_path: Path) -> None:
    for root in (tmp_path / "new" / "home", tmp_path / "open"):
        if root.name == "open":
            root.mkdir(mode=0o777)
            root.chmod(0o777)
        with Home(root).locked("x"):
            assert root.stat().st_mode & 0o777 == 0o700
        root.chmod(0o755)
        Experiments(Home(root)).save(Experiments(Home(root)).new(request("flowers"), ENGINES))
        assert root.stat().st_mode & 0o777 == 0o700


def test_opening_data_makes_the_home_for_those_alone_that_are_kept_there(tmp_path: Path, shards: Manifest) -> None:
    home = Home(tmp_path / "home")
    assert home.open_dataset(str(shards.root)).digest == shards.digest
    assert not home.root.exists()
    assert len(home.open_dataset("digits").classes) == 10
    assert home.root.stat().st_mode & 0o777 == 0o700


def test_a_home_that_cannot_be_made_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "home"):
        with pytest.raises(UserError, match=rf"^{root}: .*; EFFNET_CLUSTER_HOME names another folder$"):
            Home(root).make()


def _append(root: Path, letter: str) -> None:
    path = root / "text"
    for _ in range(50):
        with Home(root).locked("services"):
            before = path.read_text() if path.exists() else ""
            path.write_text(before + letter)


def test_a_lock_keeps_processes_apart(tmp_path: Path) -> None:
    """Reading, adding and writing loses letters as soon as two processes do it at once."""
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append, args=(tmp_path, letter)) for letter in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(30)
    assert sorted((tmp_path / "text").read_text()) == ["a"] * 50 + ["b"] * 50


def test_a_request_survives_its_trip_as_json(shards: Manifest) -> None:
    fields = {"name": "x", "variants": "b0-b2", "recipe": {"global_batch": 4}, "execution": {"workers": "1:2"}}
    plan = make_plan(ExperimentSpec.parse(fields), shards)
    assert len(plan.trials) == 3
    places = {"tracking_uri": ENGINES.tracking_uri, "storage": "/shared/x", "cache_root": "/cache"}
    sent = ExperimentRequest(uid="u", job="x", plan=plan, **places)
    assert ExperimentRequest.model_validate_json(sent.model_dump_json()) == sent


def test_a_record_reads_back_as_it_was_saved(tmp_path: Path) -> None:
    experiments = Experiments(Home(tmp_path))
    first = experiments.new(request("flowers"), ENGINES)
    assert (first.name, first.job, first.jobs) == ("flowers", "flowers", ("flowers",))
    experiments.save(first)
    assert Experiments(Home(tmp_path)).load("flowers") == first
    resumed = next_job(next_job(first))
    assert resumed.jobs == ("flowers", "flowers-r2", "flowers-r3")
    assert resumed.job == "flowers-r3"
    assert resumed.request.uid == first.request.uid
    experiments.save(resumed)
    assert experiments.load("flowers") == resumed
    assert [path.name for path in experiments.folder("flowers").iterdir()] == ["record.json"]


def test_names_are_listed_oldest_first_and_a_taken_one_gets_a_number(tmp_path: Path) -> None:
    experiments = Experiments(Home(tmp_path))
    assert experiments.names() == []
    assert experiments.free_name("z") == "z"
    for name in ("z", "z-2", "a"):
        experiments.save(experiments.new(request(name), ENGINES))
    assert experiments.names() == ["z", "z-2", "a"]
    assert [experiments.free_name(name) for name in ("z", "a", "b")] == ["z-3", "a-2", "b"]
    assert experiments.free_name("z", {"z-3", "z-4"}) == "z-5"


def test_an_unknown_experiment_is_told_with_the_latest_known(tmp_path: Path) -> None:
    experiments = Experiments(Home(tmp_path))
    with pytest.raises(UserError, match=r"^no experiment 'x'; submit one first$"):
        experiments.load("x")
    for number in range(7):
        experiments.save(experiments.new(request(f"e{number}"), ENGINES))
    with pytest.raises(UserError, match=r"^no experiment 'x'; the latest are e2, e3, e4, e5, e6$"):
        experiments.load("x")


def test_a_record_of_another_version_keeps_only_itself_from_being_read(tmp_path: Path) -> None:
    experiments = Experiments(Home(tmp_path))
    for name in ("old", "new"):
        experiments.save(experiments.new(request(name), ENGINES))
    file = experiments.folder("old") / "record.json"
    fields = json.loads(file.read_text())
    fields["request"]["spec"] = fields["request"].pop("plan")["spec"]
    file.write_text(json.dumps(fields))
    assert experiments.names() == ["old", "new"]
    assert experiments.local_jobs() == {"old": "old", "new": "new"}
    experiments.require_free("another")
    assert experiments.load("new").name == "new"
    with pytest.raises(UserError, match=r"record\.json .*another version of effnet-cluster") as caught:
        experiments.load("old")
    assert "\n" not in str(caught.value)
