"""A cluster that is not ours, of one node and then two: data prepared on it, a trial that grows and shrinks with it."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import ray
from mlflow.entities import Run
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group, remove_placement_group

from effnet_cluster.datasets import DIGITS, open_dataset
from effnet_cluster.orchestration.errors import UserError
from effnet_cluster.orchestration.node_facts import versions
from effnet_cluster.orchestration.plan import make_plan
from effnet_cluster.orchestration.preflight import require_nodes
from effnet_cluster.orchestration.request import ExperimentRequest
from effnet_cluster.orchestration.running.nodes import alive_nodes, ask_nodes
from effnet_cluster.orchestration.sizing.allocation import share_out
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.training.storage import Storage

from ..photos import cut_photos
from .conftest import Cli, assert_no_step_twice, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
# Longer than the minute after which Ray looks for nodes that it did not know of; one worker has made 24 in 50 s.
TRIAL, EPOCHS = "digits-b0-w0.5-d0.5-silu-s0", 60


@pytest.fixture(scope="module")
def cluster(cli: Cli) -> Iterator[Cluster]:
    """Another cluster than the embedded one: a head with one core."""
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": True, "dashboard_port": 0},
    )
    yield cluster
    cluster.shutdown()


@pytest.fixture
def add_node(cluster: Cluster) -> Iterator[Callable[[], Any]]:
    """Adds a node of one core; whatever becomes of the test, the next one begins with the head alone."""
    yield lambda: cluster.add_node(num_cpus=1)
    for node in list(cluster.worker_nodes):
        cluster.remove_node(node, allow_graceful=False)


def test_data_is_prepared_on_all_nodes(cli: Cli, cluster: Cluster, add_node: Callable[[], Any], tmp_path: Path) -> None:
    node = add_node()
    photos = cut_photos(tmp_path / "photos", (40, 60), 600)
    here, there = tmp_path / "here", tmp_path / "there"
    cli("data", "prepare", str(photos), str(here), "--workers", "1")
    cli("data", "prepare", str(photos), str(there), "--address", cluster.address)
    cluster.remove_node(node)
    files = sorted(path.relative_to(here) for path in here.rglob("*") if path.is_file())
    assert len(files) > 3
    assert [(there / file).read_bytes() for file in files] == [(here / file).read_bytes() for file in files]


def test_ray_places_what_is_planned_on_nodes_of_unequal_size_and_nothing_that_is_refused(
    cluster: Cluster, tmp_path: Path
) -> None:
    """One, two and four cores: each request as Ray's own placement sees it."""
    fields = {"name": "x", "variants": "b0", "recipe": {"global_batch": 840}}
    (trial,) = make_plan(ExperimentSpec.parse(fields), open_dataset(DIGITS, tmp_path)).trials
    added = [cluster.add_node(num_cpus=cores) for cores in (2, 4)]
    ray.init(cluster.address, log_to_driver=False)
    try:
        found = {}
        for workers, cores in itertools.product(range(1, 9), (None, 1, 2, 3, 4, 5)):
            spec = ExperimentSpec.parse({**fields, "execution": {"workers": workers, "cpus_per_worker": cores}})
            try:
                each = share_out(alive_nodes(), spec.execution, [trial]).cpus
            except UserError:
                each = None
            group = placement_group([{"CPU": each or cores or 1}] * workers)
            found[workers, cores] = each is not None
            assert group.wait(30 if each else 1) == found[workers, cores], (workers, cores, each)
            remove_placement_group(group)
        assert 10 < sum(found.values()) < len(found) - 10
    finally:
        ray.shutdown()
        for node in added:
            cluster.remove_node(node)


def test_a_node_that_does_not_see_the_storage_is_named_before_anything_starts(
    cli: Cli, cluster: Cluster, tmp_path: Path
) -> None:
    added = cluster.add_node(num_cpus=2)
    ray.init(cluster.address, log_to_driver=False)
    try:
        spec = ExperimentSpec.parse({"name": "x", "variants": "b0"})
        manifest = open_dataset(DIGITS, tmp_path / "cache", typed=False)
        request = ExperimentRequest(
            uid="mine",
            job="x",
            plan=make_plan(spec, manifest),
            tracking_uri=str(cli.services()["mlflow"]["url"]),
            storage=str(tmp_path / "storage"),
            cache_root=str(tmp_path / "cache"),
        )
        Storage(request.storage).claim("mine")
        facts = ask_nodes(alive_nodes(), request)
        assert len(facts) == len([node for node in alive_nodes() if node.cpus])
        require_nodes(request.plan, request.plan.trials, facts, versions(), False)
        assert [file.name for file in Path(request.storage).iterdir()] == ["effnet-uid"]
        for change in ({"uid": "theirs"}, {"storage": str(tmp_path / "elsewhere")}):
            facts = ask_nodes(alive_nodes(), request.model_copy(update=change))
            with pytest.raises(UserError, match=r"^node [0-9.]+ cannot use the storage: it sees .*--storage"):
                require_nodes(request.plan, (), facts, versions(), False)
    finally:
        ray.shutdown()
        cluster.remove_node(added)


# Four minutes, of which Ray waits two before it looks for new nodes and misses the lost one.
@pytest.mark.long
def test_a_trial_grows_and_shrinks_with_the_cluster(cli: Cli, cluster: Cluster, add_node: Callable[[], Any]) -> None:
    submit(cli, cluster, "elastic")
    wait_for(lambda: workers(cli, "elastic")[-1:] == [1], 120, "an epoch of one worker")
    node = add_node()
    wait_for(lambda: workers(cli, "elastic")[-1:] == [2], 180, "an epoch of two workers")
    cluster.remove_node(node, allow_graceful=False)
    run = ended(cli, "elastic")

    counts = workers(cli, "elastic")
    assert len(counts) == EPOCHS
    assert [count for count, before in pairwise([*counts[::-1], 0]) if count != before] == [1, 2, 1]
    log = cli("logs", "elastic").stdout
    # To grow, it saved where it was; what a lost node did after its last checkpoint was done again.
    assert f"[{TRIAL}] asked to leave; checkpoint at epoch" in log
    assert f"[{TRIAL}] workers ended (lost); going on from the last checkpoint" in log
    assert run.data.tags["outcome"] == "completed"
    assert_no_step_twice(cli.client(), run)
    assert cli("verify", "elastic").returncode == 0


# Four minutes, most of them Ray's start of three worker groups.
@pytest.mark.long
def test_workers_leave_a_node_that_is_announced_to_go(cli: Cli, cluster: Cluster, add_node: Callable[[], Any]) -> None:
    node = add_node()
    submit(cli, cluster, "reclaimed")
    wait_for(lambda: workers(cli, "reclaimed")[-1:] == [2], 180, "an epoch of two workers")
    # What cloud providers' notices become on a cluster that scales itself; the node goes a minute later.
    notice = ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "reclaimed", "--node-id", node.node_id)
    drain = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", cluster.address, *notice]
    subprocess.run([*drain, "--deadline-remaining-seconds", "60"], check=True, timeout=60)
    wait_for(lambda: "asked to leave; checkpoint" in cli("logs", "reclaimed").stdout, 60, "the checkpoint")
    wait_for(lambda: workers(cli, "reclaimed")[-1:] == [1], 120, "an epoch of one worker")
    cluster.remove_node(node, allow_graceful=False)
    run = ended(cli, "reclaimed")

    counts = workers(cli, "reclaimed")
    assert len(counts) == EPOCHS
    # Last one worker, before that two, and at first perhaps one: what Ray knows of new nodes can be 20 s old.
    assert [count for count, before in pairwise([*counts[::-1], 0]) if count != before] in ([1, 2], [1, 2, 1])
    log = cli("logs", "reclaimed").stdout
    assert f"[{TRIAL}] workers ended (preempted); going on from the last checkpoint" in log
    assert "(lost)" not in log
    assert run.data.tags["outcome"] == "completed"
    assert_no_step_twice(cli.client(), run)
    assert cli("verify", "reclaimed").returncode == 0


def submit(cli: Cli, cluster: Cluster, name: str) -> None:
    """Start a trial of one or two workers of a core each on the other cluster."""
    cli(
        *("submit", "--variants", "b0-w0.5-d0.5", "--workers", "1:2", "--cpus-per-worker", "1"),
        *("--epochs", str(EPOCHS), "--checkpoint-steps", "5", "--name", name, "--detach"),
        *("--address", f"http://{cluster.head_node.webui_url}"),
        *("--tracking-uri", cli.services()["mlflow"]["url"]),
    )


def ended(cli: Cli, name: str) -> Run:
    """The trial's run, once it has ended."""
    wait_for(lambda: cli.outcome(name, TRIAL) != "running", 1200, "the end")
    return cli.trial_runs(name)[TRIAL]


def workers(cli: Cli, name: str) -> list[int]:
    """How many there were, by epoch."""
    run = cli.trial_runs(name).get(TRIAL)
    if run is None:
        return []
    history = cli.client().get_metric_history(run.info.run_id, "run/workers")
    return [int(point.value) for point in sorted(history, key=lambda point: point.step)]
