"""The flags of `submit` for the fields of a recipe, made from the fields themselves, so that none is forgotten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from ...orchestration.errors import UserError
from ...orchestration.training.recipes import RECIPES, RecipeField, recipe_fields

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_NAME = "name"
_PARAMETER = "recipe"
_NAMED = "What the flags below start from.  [default: basic]"


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--recipe` and a flag for every field; what was not given is None."""
    options: list[Decorator] = [
        click.option(
            f"--{_PARAMETER}",
            type=click.Choice(list(RECIPES)),
            help=_NAMED,
        ),
        *map(_option, recipe_fields()),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def take_recipe(base: Any, flags: dict[str, Any]) -> dict[str, Any]:
    """The recipe that a spec file and flags say together; takes its flags out of `flags`.

    A `--recipe` in the flags replaces the file's recipe as a whole, other flags override single fields of it.

    Raises:
        UserError: the file's is neither a name nor a mapping.
    """
    named = flags.pop(_PARAMETER, None)
    given = {field.name: flags.pop(field.name) for field in recipe_fields() if field.name in flags}
    if named is not None:
        return {_NAME: named, **given}
    if base is None:
        return given
    if isinstance(base, str):
        return {_NAME: base, **given}
    if not isinstance(base, dict):
        raise UserError(f"recipe: expected a name or a mapping of fields such as 'epochs: 10' (got {base!r})")
    return {**base, **given}


def _option(field: RecipeField) -> Decorator:
    flag = f"--{field.name.replace('_', '-')}"
    text = f"{field.description[0].upper()}{field.description[1:]}."
    if field.default is not None and field.default is not False:
        text += f"  [basic: {field.default}]"
    if field.kind is bool:
        return click.option(f"{flag}/--no{flag[1:]}", default=None, help=text)
    return click.option(flag, type=click.Choice(field.choices) if field.choices else field.kind, help=text)
