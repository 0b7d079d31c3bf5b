"""Following an experiment: each change of a trial is one line, and the job's end is the last look."""

import io
from collections.abc import Sequence
from typing import Any, cast

import pytest
from rich.console import Console

from effnet_cluster.cluster import live_table
from effnet_cluster.cluster.experiments import Experiment
from effnet_cluster.cluster.jobs import Jobs
from effnet_cluster.cluster.live_table import follow
from effnet_cluster.datasets import Manifest
from effnet_cluster.orchestration.plan import Plan, make_plan
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.tracking.records import Outcome, TrialRecord
