"""Preflight: each fault, planted in the facts of a machine, is refused in one line before anything starts."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from effnet_cluster.datasets import Manifest
from effnet_cluster.effnet.memory import estimate
from effnet_cluster.orchestration import node_facts
from effnet_cluster.orchestration.errors import UserError
from effnet_cluster.orchestration.node_facts import NodeFacts, facts_of_node
from effnet_cluster.orchestration.plan import Plan, make_plan
from effnet_cluster.orchestration.preflight import notes, require_machine, require_nodes
from effnet_cluster.orchestration.request import ExperimentRequest
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.training.storage import Storage

GIB = 2**30
HERE = {"Python": "3.12", "torch": "2.9.0", "ray": "2.54.0"}
NODE = NodeFacts("10.0.0.1", HERE, cores=8, memory=64 * GIB, shared_memory=8 * GIB, storage_free=100 * GIB)
GPU_NODE = replace(NODE, gpus=2, gpu_memory=(80 * GIB, 80 * GIB))


def plan(digits: Manifest, **fields: Any) -> Plan:
    return make_plan(ExperimentSpec.parse({"name": "x", "variants": "b0", **fields}), digits)


def refusal(made: Plan, *nodes: NodeFacts, use_gpu: bool = False, unstarted: int | None = None) -> str:
    """What is refused, in one line; empty if nothing is."""
    try:
        require_nodes(made, made.trials[:unstarted], nodes, HERE, use_gpu)
    except UserError as error:
        (line,) = str(error).splitlines()
        return line
    return ""


@pytest.mark.parametrize("node", [NODE, GPU_NODE])
def test_a_sound_cluster_is_not_refused(digits: Manifest, node: NodeFacts) -> None:
    made = plan(digits, variants="b0-b7", execution={"workers": 2, "loader_workers": 2})
    assert refusal(made, node, replace(node, address="10.0.0.2"), use_gpu=bool(node.gpus)) == ""
    assert notes(made) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"storage": "it sees nothing at /s"}, ["cannot use the storage: it sees nothing at /s", "--storage"]),
        ({"data": "no such folder"}, ["cannot read the data digits: no such folder", "--data"]),
        ({"tracking": "http://x does not answer"}, ["cannot reach the tracking server", "--tracking-uri"]),
        ({"weights": "no b0.pth"}, ["has not the weights to start from: no b0.pth"]),
        ({"versions": HERE | {"torch": "2.8.0"}}, ["torch 2.8.0 and the driver 2.9.0"]),
        ({"versions": HERE | {"ray": "none"}}, ["ray none and the driver 2.54.0"]),
        ({"versions": {"torch": "2.9.0", "ray": "2.54.0"}}, ["Python none and the driver 3.12"]),
        ({"storage_free": 10 * 2**20}, ["disk has 10 MiB free", "1 trials take up to"]),
    ],
    ids=["storage", "data", "tracking", "weights", "torch", "ray", "python", "disk"],
)
def test_a_fault_of_one_node_is_refused_and_the_node_named(
    digits: Manifest, change: dict[str, Any], words: list[str]
) -> None:
    said = refusal(plan(digits), NODE, replace(NODE, address="10.0.0.2", **change))
    assert said.startswith("node 10.0.0.2")
    for part in words:
        assert part in said


def test_weights_to_start_from_may_be_gone_once_all_trials_have_checkpoints(digits: Manifest) -> None:
    without = replace(NODE, weights="no b0.pth")
    assert "has not the weights" in refusal(plan(digits, seeds=[0, 1]), without, unstarted=1)
    assert refusal(plan(digits, seeds=[0, 1]), without, unstarted=0) == ""


def test_a_disk_holds_what_the_checkpoints_of_the_trials_to_come_take(digits: Manifest) -> None:
    made = plan(digits, seeds=list(range(10)))
    params = made.trials[0].params
    need = 4 * params * 3 * (4 * 10 + 1)  # weights and two moments; four checkpoints each, and one being written
    assert refusal(made, replace(NODE, storage_free=need)) == ""
    assert "10 trials" in refusal(made, replace(NODE, storage_free=need - 1))
    assert refusal(made, replace(NODE, storage_free=need - 1), unstarted=9) == ""
    assert refusal(made, replace(NODE, storage_free=None)) == "", "a URL has no disk"
    averaged = plan(digits, seeds=list(range(10)), recipe={"ema": 0.9, "optimizer": "sgd"})
    assert refusal(averaged, replace(NODE, storage_free=need - 1)) != ""


def test_memory_that_holds_no_image_per_worker_is_refused(digits: Manifest) -> None:
    made = plan(digits, variants="b0,b7", image_size=600, execution={"workers": 2})
    (trial,) = (trial for trial in made.trials if trial.variant == "b7")
    memory = estimate(trial.model, 1, 600).memory
    need = memory.total - memory.activations // 2  # some of it may be kept in 16 bits
    assert refusal(made, replace(NODE, memory=2 * need + 8)) == ""
    said = refusal(made, replace(NODE, memory=2 * need - 8))
    assert said.startswith(f"{trial.trial_id}: 600 px needs at least")
    assert "hold 1 of 2 workers" in said
    half = replace(NODE, memory=need + 8)
    assert refusal(made, half, replace(half, address="10.0.0.2")) == "", "a worker on each"
    gpus = replace(GPU_NODE, gpu_memory=(need + 8, need - 8))
    assert "GPUs of" in refusal(made, gpus, use_gpu=True)
    assert refusal(made, replace(gpus, gpu_memory=None), use_gpu=True) == "", "nobody could ask"


def test_a_micro_batch_that_was_asked_for_must_fit_as_it_is(digits: Manifest) -> None:
    small, large = ({"recipe": {"global_batch": 32, "micro_batch": size}} for size in (1, 32))
    node = replace(NODE, memory=2 * GIB)
    assert refusal(plan(digits, image_size=600, **small), node) == ""
    assert "micro-batches" in refusal(plan(digits, image_size=600, **large), node)


def test_loader_workers_need_room_in_shared_memory(digits: Manifest) -> None:
    fields = {"image_size": 224, "recipe": {"global_batch": 128}, "execution": {"workers": 2, "loader_workers": 3}}
    need = 2 * 3 * 2 * 64 * 3 * 224**2  # workers x loader workers x batches ahead x images x bytes
    made = plan(digits, **fields)
    assert refusal(made, replace(NODE, shared_memory=need)) == ""
    assert "--shm-size" in refusal(made, replace(NODE, shared_memory=need - 1))
    assert refusal(made, *(replace(NODE, shared_memory=need // 2),) * 2) == "", "a worker on each"
    fields["execution"] = {"workers": 2, "loader_workers": 0}
    assert refusal(plan(digits, **fields), replace(NODE, shared_memory=0)) == ""
    fields["execution"] = {"workers": 2}
    assert refusal(plan(digits, **fields), replace(NODE, shared_memory=0)) == "", "on CPUs there are none"
    assert "--shm-size" in refusal(plan(digits, **fields), replace(GPU_NODE, shared_memory=2**20), use_gpu=True)


def test_two_ranks_on_one_gpu_are_refused_before_nccl_does(digits: Manifest) -> None:
    made = plan(digits, execution={"workers": 2, "device": "gpu"})
    told = replace(GPU_NODE, gpu_memory=(80 * GIB,))
    said = refusal(made, told, use_gpu=True)
    assert "Ray counts 2 GPUs, and there are 1" in said
    assert "--num-gpus 1" in said
    assert refusal(made, told, use_gpu=False) == ""


def test_validation_smaller_than_the_ranks_is_said_and_allowed(digits: Manifest) -> None:
    made = plan(digits, recipe={"global_batch": 128}, execution={"workers": 64}).model_copy(update={"val_samples": 63})
    (said,) = notes(made)
    assert "63 images for 64 workers" in said
    assert notes(made.model_copy(update={"val_samples": 64})) == []


# This machine


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine of four cores and no GPU, to plant faults in."""
    found = SimpleNamespace(memory=16 * GIB, free=100 * GIB, gpus=())
    monkeypatch.setattr(node_facts.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(node_facts, "_memory", lambda: found.memory)
    monkeypatch.setattr(node_facts, "_free", lambda _: found.free)
    monkeypatch.setattr(node_facts, "_gpu_memory", lambda: found.gpus)
    return found


def test_more_workers_than_this_machine_can_ever_have_are_refused(digits: Manifest, machine: SimpleNamespace) -> None:
    require_machine(plan(digits, execution={"workers": 4}), "/s")
    require_machine(plan(digits, execution={"workers": "2:8"}), "/s")
    with pytest.raises(UserError, match=r"^--workers 8 with 1 CPU cores per worker: this machine has 4 cores"):
        require_machine(plan(digits, execution={"workers": 8}), "/s")
    with pytest.raises(UserError, match=r"fewer workers or cores$"):
        require_machine(plan(digits, execution={"workers": 2, "cpus_per_worker": 3}), "/s")
    machine.gpus = (80 * GIB,)
    with pytest.raises(UserError, match=r"has 1 GPUs; use fewer, or --device cpu$"):
        require_machine(plan(digits, execution={"workers": 2}), "/s")
    require_machine(plan(digits, execution={"workers": 2, "device": "cpu"}), "/s")


def test_this_machines_memory_and_disk_are_checked_before_a_job_is_submitted(
    digits: Manifest, machine: SimpleNamespace
) -> None:
    machine.memory = 2**20
    with pytest.raises(UserError, match=r"px needs at least .* per worker, and memory of 1 MiB hold 0 of 1 workers"):
        require_machine(plan(digits), "/s")
    machine.memory, machine.free = 16 * GIB, 2**20
    with pytest.raises(UserError, match=r"^this machine: the storage's disk has 1 MiB free"):
        require_machine(plan(digits), "/s")
    require_machine(plan(digits), "s3://bucket/s")


def test_a_machine_that_is_as_it_is_runs_a_small_plan(digits: Manifest, tmp_path: Path) -> None:
    require_machine(plan(digits), str(tmp_path / "not" / "there" / "yet"))


# What a node is asked


@pytest.fixture
def server() -> Iterator[str]:
    """A server that answers everything with a refusal, which is an answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(401)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def request_(digits: Manifest, tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> ExperimentRequest:
    monkeypatch.setattr(node_facts.time, "sleep", lambda _: None)
    data = str(digits.location)
    Storage(str(tmp_path / "s")).claim("mine")
    return ExperimentRequest(
        uid="mine",
        job="x",
        plan=plan(digits, data=data),
        tracking_uri=server,
        storage=str(tmp_path / "s"),
        cache_root=str(tmp_path / "cache"),
    )


def test_a_node_that_sees_everything_reports_nothing_and_leaves_nothing(request_: ExperimentRequest) -> None:
    before = sorted(Path(request_.storage).iterdir())
    facts = facts_of_node("10.0.0.1", "id", 4, 0, request_)
    assert (facts.storage, facts.data, facts.tracking) == ("", "", "")
    assert facts.storage_free
    assert facts.memory > 2**28
    assert facts.versions == node_facts.versions()
    assert sorted(Path(request_.storage).iterdir()) == before, "it has left something"
    require_nodes(request_.plan, request_.plan.trials, [facts], node_facts.versions(), False)


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"uid": "theirs"}, "storage", "it sees another folder at"),
        ({"storage": "/nowhere/at/all"}, "storage", "it sees nothing at /nowhere/at/all"),
        ({"storage": "nosuch://x"}, "storage", "storage nosuch://x"),
    ],
)
def test_a_node_says_what_is_wrong_with_the_storage(
    request_: ExperimentRequest, change: dict[str, str], field: str, words: str
) -> None:
    assert words in getattr(facts_of_node("10.0.0.1", "id", 4, 0, request_.model_copy(update=change)), field)


def test_a_node_that_may_read_and_not_write_says_so(
    request_: ExperimentRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/x")

    monkeypatch.setattr(Storage, "write", refuse)
    assert "Permission denied" in facts_of_node("10.0.0.1", "id", 4, 0, request_).storage


def test_a_node_says_that_it_sees_other_data_or_none(request_: ExperimentRequest, tmp_path: Path) -> None:
    other = request_.plan.model_copy(update={"data_digest": "0" * 64})
    facts = facts_of_node("10.0.0.1", "id", 4, 0, request_.model_copy(update={"plan": other}))
    assert facts.data.endswith("not the plan's 000000000000")
    spec = request_.spec.model_copy(update={"data": str(tmp_path / "gone")})
    gone = request_.plan.model_copy(update={"spec": spec})
    assert "gone" in facts_of_node("10.0.0.1", "id", 4, 0, request_.model_copy(update={"plan": gone})).data


def test_a_node_says_that_the_tracking_server_does_not_answer(request_: ExperimentRequest) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{probe.getsockname()[1]}"
    facts = facts_of_node("10.0.0.1", "id", 4, 0, request_.model_copy(update={"tracking_uri": uri}))
    assert facts.tracking == f"{uri} does not answer"


def test_a_node_says_which_published_weights_it_lacks(
    request_: ExperimentRequest, digits: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    fetched: list[str] = []

    def fetch(url: str, path: str, *_: Any, **__: Any) -> None:
        fetched.append(Path(path).name)
        if "_b1_" in path:
            raise OSError("Network is unreachable")
        Path(path).touch()

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    data = str(digits.location)
    wanted = plan(digits, data=data, variants="b0,b1", seeds="0-1", recipe={"pretrained": True})
    facts = facts_of_node("10.0.0.1", "id", 4, 0, request_.model_copy(update={"plan": wanted}))
    assert "efficientnet_b1_rwightman-bac287d4.pth is missing" in facts.weights
    assert len(fetched) == 2, "each file once"
    alone = plan(digits, data=data, variants="b0", recipe={"pretrained": True})
    assert facts_of_node("10.0.0.1", "id", 4, 0, request_.model_copy(update={"plan": alone})).weights == ""
    assert len(fetched) == 2, "what is in the cache is not downloaded"


def test_a_node_says_that_it_does_not_see_the_file_of_weights(
    request_: ExperimentRequest, digits: Manifest, tmp_path: Path
) -> None:
    file = tmp_path / "net.pth"
    started = plan(digits, data=str(digits.location), recipe={"weights": str(file)})
    wanted = request_.model_copy(update={"plan": started})
    assert f"it sees nothing at {file}; give --weights" in facts_of_node("10.0.0.1", "id", 4, 0, wanted).weights
    file.touch()
    assert facts_of_node("10.0.0.1", "id", 4, 0, wanted).weights == ""


def test_the_memory_of_a_container_is_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(node_facts, "_CGROUP_LIMITS", (str(tmp_path / "none"), str(limit)))
    for text, expected in (("max\n", None), ("1048576\n", 2**20)):
        limit.write_text(text)
        assert node_facts._memory() == (expected or psutil.virtual_memory().total)
