"""Placement groups that killed drivers of ours have left behind."""

from __future__ import annotations

import logging

import ray
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.state import list_jobs, list_placement_groups
from ray.util.state.exception import RayStateApiException

from ...datasets import one_line

# In the command line of every driver of ours.
_DRIVER = f"{__package__.rpartition('.')[0]}.driver"
_MOST = 10_000  # jobs and groups that Ray lists
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_log = logging.getLogger(__name__)


def remove_left_groups() -> int:
    """Remove the placement groups of our jobs that have ended; returns how many there were.

    Ray removes a group when it hears that its creator has died, and so misses one that the creator asks for while it is
    being killed. Nobody else would get its cores or GPUs before the cluster ends. Groups of other people's jobs stay:
    they may be a detached actor's, which outlives its job.
    """
    try:
        jobs = list_jobs(limit=_MOST, raise_on_missing_output=False)
        ended = {job.job_id for job in jobs if job.status in _ENDED and _DRIVER in (job.entrypoint or "")}
        groups = list_placement_groups(
            filters=[("state", "!=", "REMOVED")], limit=_MOST, detail=True, raise_on_missing_output=False
        )
    except RayStateApiException as error:
        _log.warning("cannot look for what killed jobs have left in the cluster: %s", one_line(error))
        return 0
    left = [group.placement_group_id for group in groups if group.creator_job_id in ended]
    for group_id in left:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group_id))))
    if left:
        _log.warning("%d placement groups that a killed job had left are removed", len(left))
    return len(left)
