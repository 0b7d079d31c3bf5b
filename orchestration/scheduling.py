"""`Scheduling`: how trials of a sweep are ended early, as data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from .training.job import TrialPlan
from .training.settings import Shown

CHANGEABLE = frozenset(
    {
        *("lr", "weight_decay", "clip_grad", "label_smoothing", "backbone_lr"),
        *("policy", "erasing", "mixup", "cutmix", "min_crop"),
    }
)
"""Fields of a recipe that may change in the middle of a training; what else a checkpoint holds would not fit."""


class Scheduling(BaseModel):
    """When a trial is stopped, paused or replaced because others do better."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Annotated[
        Literal["none", "asha", "hyperband", "median", "pbt"],
        Field(description="what ends trials early, or lets them take over the weights of better ones"),
        Shown(name="scheduler", section="search"),
    ] = "none"
    min_share: Annotated[
        float,
        Field(
            gt=0,
            lt=1,
            description="share of a trial's steps before it may be stopped, or between the exchanges of pbt",
        ),
        Shown(section="search"),
    ] = 0.1
    reduction: Annotated[
        int,
        Field(ge=2, description="of so many trials, asha and hyperband let one go on to the next rung"),
        Shown(section="search"),
    ] = 3
    exchanged: Annotated[
        float,
        Field(gt=0, le=0.5, description="share of the trials that take over the weights of as many better ones in pbt"),
        Shown(section="search"),
    ] = 0.25


def starting_order(trials: Iterable[TrialPlan], scheduling: Scheduling) -> list[TrialPlan]:
    """The order in which trials of equal size start: as they come or, where they are compared, mixed by their names.

    A grid is sorted. Where each trial does better than those before it, none of them is stopped.
    """
    if scheduling.name == "none":
        return list(trials)
    return sorted(trials, key=lambda trial: hashlib.sha256(trial.trial_id.encode()).digest())
