"""`effnet-cluster bench`: paired measurements against plain alternatives, on this machine."""

from __future__ import annotations

import click

from .bench_data import command as data
from .bench_launch import command as launch
from .bench_model import command as model
from .bench_recipes import command as recipes
from .bench_sweep import command as sweep
from .bench_train import command as train


@click.group("bench")
def command() -> None:
    """Measure against plain alternatives. Contestants take turns, so that load on the machine slows all alike."""


for _verb in (data, launch, model, recipes, sweep, train):
    command.add_command(_verb)
