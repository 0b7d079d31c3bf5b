"""The flags of `submit` for the fields of a recipe, made from the fields themselves, so that none is forgotten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from ...orchestration.errors import UserError
from ...orchestration.recipes import RECIPES, Recipe

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
        *(_option(name, field) for name, field in Recipe.model_fields.items() if name != _NAME),
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
    given = {name: flags.pop(name) for name in Recipe.model_fields.keys() - {_NAME} if name in flags}
    if named is not None:
        return {_NAME: named, **given}
    if base is None:
        return given
    if isinstance(base, str):
        return {_NAME: base, **given}
    if not isinstance(base, dict):
        raise UserError(f"recipe: expected a name or a mapping of fields such as 'epochs: 10' (got {base!r})")
    return {**base, **given}


def _option(name: str, field: FieldInfo) -> Decorator:
    flag = f"--{name.replace('_', '-')}"
    kind, text = _kind(field.annotation), _described(field)
    if kind is bool:
        return click.option(f"{flag}/--no{flag[1:]}", default=None, help=text)
    if get_origin(kind) is Literal:
        return click.option(flag, type=click.Choice(list(get_args(kind))), help=text)
    return click.option(flag, type=kind, help=text)


def _kind(annotation: Any) -> Any:
    """The type of a value, without `None` and pydantic's limits around it."""
    while get_args(annotation) and get_origin(annotation) is not Literal:
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    return annotation


def _described(field: FieldInfo) -> str:
    """The field's description as a sentence, with its default if that says something."""
    text = field.description or _inner_description(field.annotation)
    text = f"{text[0].upper()}{text[1:]}."
    return text if field.default is None or field.default is False else f"{text}  [basic: {field.default}]"


def _inner_description(annotation: Any) -> str:
    """Of an optional field, whose description pydantic leaves with the type."""
    for part in get_args(annotation):
        for note in getattr(part, "__metadata__", ()):
            if isinstance(note, FieldInfo) and note.description:
                return note.description
    return "see the documentation"
