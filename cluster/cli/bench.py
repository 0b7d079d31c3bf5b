"""`effnet-cluster bench`: paired measurements against plain alternatives, on this machine."""

from __future__ import annotations

import click

from .bench_data import command as data
from .bench_model import command as model
from .bench_recipes import command as recipes
from .bench_train import command as train


@click.group("bench")
def command() -> None:
    """Measure against plain alternatives, paired: contestants take turns, so that load hits all alike."""


for _verb in (data, model, recipes, train):
    command.add_command(_verb)
