"""A killed driver's placement group is removed by the next driver; others' are not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import ray
from ray.util.state import list_placement_groups

from effnet_cluster.orchestration.running.left_groups import remove_left_groups

# A job that ends and leaves a group: its creator, a detached actor, lives on, so that Ray does not remove it.
LEAVES = """
import ray
ray.init(address="auto", configure_logging=False, log_to_driver=False)

@ray.remote(num_cpus=0)
class Creator:
    def create(self):
        self.group = ray.util.placement_group([{"CPU": 1}])
        ray.get(self.group.ready())
        return self.group.id.hex()

print(ray.get(Creator.options(lifetime="detached").remote().create.remote()))
"""


@pytest.fixture
def cluster(without_token: None) -> Iterator[str]:
    """A Ray with a dashboard, which knows jobs; gives its address."""
    context = ray.init(num_cpus=3, include_dashboard=True, configure_logging=False, log_to_driver=False)
    yield context.address_info["gcs_address"]
    ray.shutdown()


def group_of_a_job(address: str, *arguments: str) -> str:
    """Run a job to its end; returns the group that it leaves."""
    command = [sys.executable, "-c", LEAVES.replace('"auto"', repr(address)), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.strip()


def states() -> dict[str, str]:
    return {group.placement_group_id: group.state for group in list_placement_groups()}


@pytest.mark.timeout(600)
def test_what_an_ended_job_of_ours_has_left_is_removed_and_nothing_else(cluster: str) -> None:
    ours = group_of_a_job(cluster, "-m", "effnet_cluster.orchestration.driver", "experiment.json")
    others = group_of_a_job(cluster)
    own = ray.util.placement_group([{"CPU": 1}])
    ray.get(own.ready(), timeout=60)
    assert set(states()) == {ours, others, own.id.hex()}
    assert set(states().values()) == {"CREATED"}
    assert remove_left_groups() == 1
    assert states() == {ours: "REMOVED", others: "CREATED", own.id.hex(): "CREATED"}
    assert remove_left_groups() == 0
    ray.get(ray.util.placement_group([{"CPU": 1}]).ready(), timeout=60)  # its core is free
