"""`effnet-cluster data`: data sets as WebDataset shards with a manifest."""

from __future__ import annotations

import click

from .data_index import command as index
from .data_inspect import command as inspect
from .data_prepare import command as prepare
from .data_verify import command as verify


@click.group("data")
def command() -> None:
    """Prepare, index, inspect and verify data sets."""


for _verb in (prepare, index, inspect, verify):
    command.add_command(_verb)
