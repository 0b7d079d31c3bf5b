"""`effnet-cluster resume`: run what is left of an experiment."""

from __future__ import annotations

import sys
from typing import Any

import cloup

from ...orchestration.spec import parse_fields
from ...orchestration.training.execution import Execution
from ..experiments import Experiments
from ..home import Home
from ..lifecycle import resume
from .console import stderr_console
from .following import follow_to_end
from .options import experiment_argument
from .setting_options import setting_options


@cloup.command("resume")
@experiment_argument
@setting_options(Execution, "execution", help={"execution": "What is not given stays as it was."}, show_defaults=False)
@cloup.option("--detach", is_flag=True, help="Do not follow the experiment.")
def command(experiment: str, detach: bool, **flags: Any) -> None:
    """Resume EXPERIMENT from its checkpoints.

    Finished trials stay; the others continue in the same MLflow runs.

    Another number of workers trains on the same samples in the same global batches.
    """
    home = Home.default()
    before = Experiments(home).load(experiment).request.spec.execution
    changes = {name: value for name, value in flags.items() if value is not None}
    execution = parse_fields(Execution, before.model_dump(mode="json") | changes)
    record = resume(home, experiment, execution)
    stderr_console().print(f"resumed {experiment} as job {record.job}")
    if detach:
        return
    sys.exit(follow_to_end(home, record))
