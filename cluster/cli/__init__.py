"""The `effnet-cluster` command line: one module per verb, which parses, calls and prints."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from ...datasets import SAFE_PATH, reach_this_machine_directly, with_environment
from .console import accept_any_text
from .errors import exit_on_error

# Verbs are imported when they are called: `--help` and completion answer at once.
_VERBS = {
    "submit": "submit",
    "study": "study",
    "up": "up",
    "down": "down",
    "status": "status",
    "list": "list_experiments",
    "show": "show",
    "logs": "logs",
    "stop": "stop",
    "resume": "resume",
    "extend": "extend",
    "compare": "compare",
    "report": "report",
    "verify": "verify",
    "data": "data",
    "describe": "describe",
    "predict": "predict",
    "export": "export",
    "scale": "scale",
    "bench": "bench",
}


# Columns; longer lines read badly, also where a terminal has room for them.
_WIDEST_HELP = 100


class _Verbs(click.Group):
    """A group whose commands are loaded by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        command: click.Command = import_module(f".{_VERBS[cmd_name]}", __name__).command
        return command

    def main(self, *arguments: Any, **options: Any) -> Any:
        accept_any_text()
        return super().main(*arguments, **options)

    def invoke(self, ctx: click.Context) -> Any:
        # For everything that a command asks or starts, however it does.
        reach_this_machine_directly()
        with exit_on_error(), with_environment(SAFE_PATH):
            return super().invoke(ctx)


_CONTEXT = {
    "help_option_names": ["-h", "--help"],
    "auto_envvar_prefix": "EFFNET_CLUSTER",
    "max_content_width": _WIDEST_HELP,
}


@click.group(cls=_Verbs, context_settings=_CONTEXT)
@click.version_option(package_name="effnet-cluster")
def main() -> None:
    """Train the EfficientNet family on one machine or on a cluster.

    Exit codes: 0 done, 1 the work or an engine failed, 2 the call was wrong.
    """
