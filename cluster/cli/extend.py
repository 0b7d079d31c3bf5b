"""`effnet-cluster extend`: more of an experiment, without repeating what is done."""

from __future__ import annotations

import sys
from typing import Any

import cloup

from ...orchestration.extension import Extension
from ..home import Home
from ..lifecycle import extend
from .console import stderr_console
from .following import follow_to_end
from .options import experiment_argument


@cloup.command("extend")
@experiment_argument
@cloup.option("--epochs", metavar="INTEGER", help="Epochs of each trial in all, more than before.")
@cloup.option("--trials", metavar="INTEGER", help="Trials of a random or an Optuna search in all, more than before.")
@cloup.option("--variants", metavar="LIST", help="More networks, such as b4.")
@cloup.option("--activations", metavar="LIST", help="More activation functions.")
@cloup.option("--shortcuts", metavar="LIST", help="More kinds of skip connections.")
@cloup.option("--seeds", metavar="LIST", help="More seeds, such as 3-4.")
@cloup.option("--detach", is_flag=True, help="Do not follow the experiment.")
def command(experiment: str, detach: bool, **added: Any) -> None:
    """Extend EXPERIMENT: train longer, or add trials under the same name.

    New values are combined with all others of a grid. A search tries more with --trials. What is finished is not
    repeated.

    With more epochs, finished trials go on from their last checkpoint, in the same MLflow runs. From there on the
    learning rate is that of the longer schedule, so it jumps up. A better model replaces the one of the first end.
    Trials that a scheduler stopped stay stopped.
    """
    home = Home.default()
    record = extend(home, experiment, Extension(**added))
    stderr_console().print(f"extended {experiment} as job {record.job}")
    if detach:
        return
    sys.exit(follow_to_end(home, record))
