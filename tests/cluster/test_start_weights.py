"""Addresses of weights that a sweep starts from: each becomes a file, which has the model that was meant."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effnet_cluster.cluster.engines import Engines
from effnet_cluster.cluster.experiments import Experiments
from effnet_cluster.cluster.home import Home
from effnet_cluster.cluster.model_address import load_trained
from effnet_cluster.cluster.start_weights import pin_weights
from effnet_cluster.datasets import Manifest, prepare_digits
from effnet_cluster.effnet import EfficientNet
from effnet_cluster.orchestration.errors import UserError
from effnet_cluster.orchestration.plan import make_plan
from effnet_cluster.orchestration.request import ExperimentRequest
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.tracking.models import log_model, register_champion
from effnet_cluster.orchestration.training.checkpoint import read_start
from effnet_cluster.orchestration.training.classifier import ServedClassifier
from effnet_cluster.orchestration.training.model_facts import ModelFacts
from effnet_cluster.orchestration.training.normalization import Normalization

from ..datasets.servers import Behaviour, http_server
from ..orchestration.conftest import ensure_sweep, job_of
from .conftest import Cli

pytestmark = pytest.mark.usefixtures("one_thread")
OURS = Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def pinned(home: Home, weights: str, **named: Any) -> str:
    fields = {"variants": "b0", "recipe": {"weights": weights, "epochs": 3}}
    found = pin_weights(home, fields, **named)
    assert found == {"variants": "b0", "recipe": {"weights": found["recipe"]["weights"], "epochs": 3}}
    return str(found["recipe"]["weights"])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Behaviour]]:
    (tmp_path / "served").mkdir()
    with http_server(tmp_path / "served") as found:
        yield found


def save(path: Path, seed: int = 0) -> bytes:
    torch.manual_seed(seed)
    torch.save({"a": torch.randn(100)}, path)
    return path.read_bytes()


def saved_bytes(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def safetensors_bytes() -> bytes:
    """A float32 vector of nine ones, `a`, as the format's description has it."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}).encode()
    return len(header).to_bytes(8, "little") + header + np.ones(9, "<f4").tobytes()


def test_paths_become_absolute_and_urls_of_storages_stay(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "net.pth")
    assert pinned(home, "net.pth") == str(tmp_path / "net.pth")
    assert pinned(home, "elsewhere/net.pth") == str(tmp_path / "elsewhere" / "net.pth"), "perhaps the nodes see it"
    assert pinned(home, "file:///elsewhere/net.pth") == "file:///elsewhere/net.pth"
    assert pinned(home, "net.pth, file:///elsewhere/b.pth") == f"{tmp_path / 'net.pth'},file:///elsewhere/b.pth"
    for fields in ({"variants": "b0"}, {"recipe": "paper"}, {"recipe": {"epochs": 3}}):
        assert pin_weights(home, fields) == fields
    assert not home.root.exists()


def test_what_a_url_gives_is_kept_under_its_digest(home: Home, server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    content = save(behaviour.root / "net.pth")
    first = pinned(home, f"{url}/net.pth")
    assert Path(first).read_bytes() == content
    assert Path(first).is_relative_to(home.root)
    assert Experiments(home).names() == []
    other = save(behaviour.root / "net.pth", seed=1)
    second = pinned(home, f"{url}/net.pth")
    assert (Path(first).read_bytes(), Path(second).read_bytes()) == (content, other), "the same name, another file"
    in_storage = pinned(home, f"{url}/net.pth", storage=f"file://{tmp_path}/store")
    assert Path(in_storage.removeprefix("file://")).read_bytes() == other
    state, facts = read_start(in_storage)
    assert torch.equal(state["a"], torch.load(behaviour.root / "net.pth")["a"])
    assert facts == {}


def test_a_download_that_fails_is_one_line_and_leaves_nothing(home: Home, server: tuple[str, Behaviour]) -> None:
    url, behaviour = server
    content = save(behaviour.root / "net.pth")
    right = f"net-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (behaviour.root / right).write_bytes(content)
    (behaviour.root / "net-01234567.pth").write_bytes(content)
    assert pinned(home, f"{url}/{right}")
    behaviour.truncated[right] = behaviour.unavailable["net.pth"] = 1
    for name, words in {
        right: "cannot be downloaded",
        "net.pth": "cannot be downloaded: 503",
        "none.pth": "cannot be downloaded: 404",
        "net-01234567.pth": "has not the sha256 01234567",
    }.items():
        with pytest.raises(UserError, match=words) as caught:
            pinned(home, f"{url}/{name}")
        assert str(caught.value).startswith(f"--weights {url}/{name}")
        assert "\n" not in str(caught.value)
    assert len([*home.experiments.glob(".weights/*")]) == 1
    with pytest.raises(UserError, match=r"/dev/null.* cannot keep a copy"):
        pinned(home, f"{url}/{right}", storage="/dev/null")


LOGIN = b"<!DOCTYPE html><title>Sign in</title>"
NO_WEIGHTS: dict[str, tuple[str, bytes, str]] = {
    "a login page": ("net.pth", LOGIN, "torch.save writes no such file; it begins with b'<!DOCTYPE html>"),
    "a page by a file's name": ("net.safetensors", LOGIN, "holds no weights: Error while deserializing"),
    "nothing": ("net.pth", b"", "holds no weights: it is empty"),
    "no tensors": ("net.pth", saved_bytes({"epoch": 3}), "holds no weights: there is no tensor in it"),
    "half a file": ("net.pth", saved_bytes({"a": torch.ones(99)})[:600], "holds no weights that can be read"),
    "half of safetensors": (
        "net.safetensors",
        safetensors_bytes()[:-9],
        "holds no weights: Error while",
    ),
}


@pytest.mark.parametrize("name", NO_WEIGHTS)
def test_what_holds_no_weights_is_refused_at_submit(
    name: str, home: Home, server: tuple[str, Behaviour], tmp_path: Path
) -> None:
    url, behaviour = server
    file, content, told = NO_WEIGHTS[name]
    if file.endswith(".safetensors"):
        pytest.importorskip("safetensors")
    (behaviour.root / file).write_bytes(content)
    for place in (f"{url}/{file}", f"file://{behaviour.root}/{file}", str(behaviour.root / file)):
        with pytest.raises(UserError) as caught:
            pinned(home, place)
        assert str(caught.value).startswith(f"--weights {place}: ")
        assert told in str(caught.value)
        assert str(caught.value).count(place) == 1
        assert "\n" not in str(caught.value)
    assert not [*home.experiments.glob(".weights/*")]


def test_a_login_page_is_one_line_of_submit_and_nothing_starts(
    home: Home, cli: Cli, server: tuple[str, Behaviour]
) -> None:
    url, behaviour = server
    (behaviour.root / "net.pth").write_bytes(LOGIN)
    result = cli("submit", "--variants", "b0", "--weights", f"{url}/net.pth")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    sent = f"what the server sent (of no type, {len(LOGIN)} bytes) holds no weights"
    assert result.stderr.startswith(f"error: --weights {url}/net.pth: {sent}")
    assert not [*home.experiments.glob("*")]


def test_weights_behind_a_query_are_of_the_kind_that_the_path_says(home: Home, server: tuple[str, Behaviour]) -> None:
    pytest.importorskip("safetensors")
    url, behaviour = server
    (behaviour.root / "net.safetensors?download=true").write_bytes(safetensors_bytes())
    path = pinned(home, f"{url}/net.safetensors?download=true")
    assert torch.equal(read_start(path)[0]["a"], torch.ones(9))


def test_s3_is_looked_into_where_it_can_be_reached(home: Home, s3: Any) -> None:
    s3.create_bucket(Bucket="nets")
    s3.put_object(Bucket="nets", Key="login.pth", Body=LOGIN)
    s3.put_object(Bucket="nets", Key="net.pth", Body=saved_bytes({"a": torch.ones(9)}))
    for name in ("net.pth", "absent.pth"):
        assert pinned(home, f"s3://nets/{name}") == f"s3://nets/{name}"
    with pytest.raises(UserError, match=r"^--weights s3://nets/login\.pth: holds no weights: torch\.save"):
        pinned(home, "s3://nets/login.pth")


@pytest.mark.e2e
def test_a_trial_and_a_registered_model_become_checkpoints(
    home: Home, cli: Cli, mlflow_uri: str, tmp_path: Path
) -> None:
    """Two trials on a real MLflow server, of which the second has the better model, and a third without any."""
    digits: Manifest = prepare_digits(tmp_path / "digits")
    fields = {"name": "start", "variants": "b0-w0.25-d0.25", "seeds": [0, 1, 2], "image_size": 32}
    plan = make_plan(ExperimentSpec.parse(fields), digits)
    request = ExperimentRequest(
        uid="uid-of-start", job="x", plan=plan, tracking_uri=mlflow_uri, storage="/x", cache_root="/x"
    )
    experiments = Experiments(home)
    experiment = experiments.new(request, Engines("http://127.0.0.1:1", mlflow_uri, False, False))
    experiments.save(experiment)
    tracker, networks = experiment.tracker, []
    sweep = ensure_sweep(tracker, plan)
    for number in range(2):
        torch.manual_seed(number)
        networks.append(EfficientNet(plan.trials[number].model).eval())
        facts = ModelFacts(networks[-1].config, digits.classes, 32, 36, OURS)
        served = ServedClassifier(networks[-1], 32, 36, OURS).eval()
        run_id = tracker.ensure_trial(job_of(plan, number), sweep)
        uri = log_model(tracker, run_id, served, np.zeros((2, 40, 40, 3), np.uint8), 0.5 + number, facts.to_dict())
    champion = register_champion(tracker, run_id, uri)
    tracker.ensure_trial(job_of(plan, 2), sweep)
    trials = [f"start/{trial.trial_id}" for trial in plan.trials]

    for address, network in {trials[0]: networks[0], trials[1]: networks[1], "start": networks[1]}.items():
        state, found = read_start(pinned(home, address))
        assert all(torch.equal(state[name], value) for name, value in network.state_dict().items()), address
        assert ModelFacts.from_dict(found).normalization == OURS
    assert pinned(home, champion, tracking_uri=mlflow_uri) == pinned(home, "start") == pinned(home, trials[1])
    assert load_trained(home, trials[0]).facts.normalization == OURS
    for address, words in {
        trials[2]: "has no model; a trial logs its model when it has finished",
        "start/none": "experiment 'start' has no such trial, or it has not begun",
        "models:/start@nobody": "no model models:/start@nobody",
    }.items():
        with pytest.raises(UserError, match=words) as caught:
            pinned(home, address, tracking_uri=mlflow_uri)
        assert str(caught.value).startswith(f"--weights {address}: ")
        assert "--model" not in str(caught.value)
    result = cli("submit", "--variants", "b0", "--weights", "start/none", "--data", digits.root)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "has no such trial" in result.stderr
    dry = cli("submit", "--variants", "b0", "--weights", "start/none", "--data", digits.root, "--dry-run")
    assert dry.exit_code == 0, dry.stderr
