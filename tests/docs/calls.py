"""Reads calls of the real commands without running them."""

from __future__ import annotations

import contextlib
import itertools
import re
import shlex
from collections.abc import Iterator, Sequence

import click

from effnet_cluster.cluster.cli import main

# What a page writes for a value that is not any text.
_VALUES = {"H": "1", "N": "2", "PRICE": "1", "NAME": "small", "STUDY": "scaling"}
_ALTERNATIVES = re.compile(r"[a-z0-9]+(/[a-z0-9]+)+")


def command_of(words: Sequence[str]) -> tuple[str, click.Context, list[str]]:
    """The command that a call of `effnet-cluster` names, such as `data prepare`, its context, and the words after it.

    Raises:
        click.UsageError: there is no such command.
    """
    command: click.Command = main
    context, rest, path = click.Context(main, info_name="effnet-cluster", **main.context_settings), list(words), []
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None
        assert name is not None
        command, path = found, [*path, name]
        context = click.Context(command, parent=context, info_name=name)
    return " ".join(path), context, rest


def parse(words: Sequence[str]) -> str:
    """Have the command of a call read all its words; returns the command's name.

    Raises:
        click.UsageError: it would refuse them.
    """
    name, context, rest = command_of(words)
    with contextlib.suppress(click.exceptions.Exit):  # of help
        context.command.make_context(context.info_name, rest, parent=context.parent)
    return name


def leaves(command: click.Command = main, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something by itself, with its name."""
    context = click.Context(command)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from leaves(found, (*path, name))
    if not isinstance(command, click.Group) or (path and command.invoke_without_command):
        yield " ".join(path), command


def is_allowed(words: Sequence[str]) -> bool:
    """Whether a call that prose abridges could be one: what is missing at its end is no fault."""
    try:
        parse(words)
    except click.MissingParameter:
        return True
    except click.BadOptionUsage as error:
        return error.message.endswith("requires an argument.")
    except click.UsageError:
        return False
    return True


def calls(span: str) -> Iterator[list[str]]:
    """The words of what prose writes as a call, `resume EXP [--workers N]`, or as several, `--search random/optuna`."""
    words = [_VALUES.get(word, word) for word in shlex.split(re.sub(r"[\[\]…]", " ", span))]
    choices = [word.split("/") if _ALTERNATIVES.fullmatch(word) else [word] for word in words]
    yield from (list(chosen) for chosen in itertools.product(*choices))


def prose_calls(span: str) -> Iterator[tuple[list[str], list[str]]]:
    """Each call that a span of prose could be: the commands that it may belong to, and its words after them.

    A span that begins with a flag, or with a value before it (`asha --reduction 3`), belongs to some command.
    """
    verbs = main.list_commands(click.Context(main))
    for words in calls(span):
        if words[0] == "effnet-cluster":
            words = words[1:]
        if words[0] in verbs:
            yield [""], words
        else:
            first = next(number for number, word in enumerate(words) if word.startswith("--"))
            yield [name for name, _ in leaves()], words[first:]
