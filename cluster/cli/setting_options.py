"""Flags for settings: one for every field of a model, in sections, so that none is forgotten."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click
import cloup

from ...orchestration.errors import UserError
from ...orchestration.spec import ExperimentSpec
from ...orchestration.training.execution import Execution
from ...orchestration.training.settings import Setting, by_section, settings_of
from .help_pages import PagedOption

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_RECIPE = "recipe"
SECTION_HELP = {_RECIPE: "The defaults are those of the recipe `basic`; the other recipes have their own."}
"""Lines that explain a section of settings."""


def setting_options(
    model: type[ExperimentSpec | Execution],
    section: str = "",
    help: Mapping[str, str] = SECTION_HELP,
    show_defaults: bool = True,
) -> Decorator:
    """Give a command a flag for every setting of a model; what is not given is None.

    Flags take text, which the model's fields read and check, as they do what a spec file says.

    Args:
        model: whose settings.
        section: the section of those that a field puts into none.
        help: a line under the heading of a section.
        show_defaults: whether help tells the defaults.
    """
    groups: list[Decorator] = []
    for name, settings in by_section(settings_of(model, section)).items():
        options = [_option(setting, show_defaults) for setting in settings]
        groups += [cloup.option_group(name.capitalize(), *options, help=help.get(name))] if name else options

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for group in reversed(groups):
            command = group(command)
        return command

    return decorate


def flag_of(setting: Setting) -> str:
    """How a person writes a setting on the command line: `--lr-per`, `--augment/--no-augment`."""
    name = setting.name.replace("_", "-")
    return f"--{name}/--no-{name}" if setting.switch else f"--{name}"


def sentence(setting: Setting) -> str:
    """A setting's description as a sentence."""
    return f"{setting.description[0].upper()}{setting.description[1:]}."


def merge_flags(model: type[ExperimentSpec], fields: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a spec file with the flags that were given over them.

    `--recipe` replaces the file's recipe as a whole, every other flag one setting.

    Raises:
        UserError: a section of the file is no mapping.
    """
    merged = dict(fields)
    if flags.get(_RECIPE) is not None:
        merged.pop(_RECIPE, None)
    for setting in settings_of(model):
        value = flags.get(setting.name)
        if value is None:
            continue
        *sections, name = setting.path
        place = merged
        for section in sections:
            place[section] = place = _mapping(section, place.get(section))
        place[name] = value
    return merged


def _mapping(section: str, fields: Any) -> dict[str, Any]:
    """A section of a spec file as a copy that can be written to."""
    if section == _RECIPE and isinstance(fields, str):
        return {"name": fields}
    if not isinstance(fields, Mapping | None):
        raise UserError(f"{section}: expected a mapping of settings to values (got {fields!r})")
    return dict(fields or {})


def _option(setting: Setting, show_default: bool) -> Decorator:
    text = sentence(setting)
    if show_default and setting.default:
        text += f"  [default: {setting.default}]"
    return cloup.option(
        flag_of(setting),
        setting.name,
        cls=PagedOption,
        common=setting.common,
        type=click.Choice(setting.choices) if setting.choices else bool if setting.switch else str,
        metavar=setting.metavar or None,
        default=None,
        help=text,
    )
