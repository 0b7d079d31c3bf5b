"""Flags for settings: one for every field of a model, in sections, so that none is forgotten."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
import cloup

from ...orchestration.errors import UserError
from ...orchestration.search.domains import assignments
from ...orchestration.spec import ExperimentSpec
from ...orchestration.training.execution import Execution
from ...orchestration.training.settings import Setting, by_section, settings_of
from .help_pages import PagedOption

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_RECIPE = "recipe"
# Sections that a file may say in one word, and the field that it is.
_WORDS = {_RECIPE: "name", "search": "method"}
SECTION_HELP = {_RECIPE: "The defaults are those of the recipe `basic`; the other recipes have their own."}
"""Lines that explain a section of settings."""


def setting_options(
    model: type[ExperimentSpec | Execution],
    section: str = "",
    help: Mapping[str, str] = SECTION_HELP,
    show_defaults: bool = True,
    besides: Sequence[str] = (),
) -> Decorator:
    """Give a command a flag for every setting of a model; what is not given is None.

    Flags take text, which the model's fields read and check, as they do what a spec file says.

    Args:
        model: whose settings.
        section: the section of those that a field puts into none.
        help: a line under the heading of a section.
        show_defaults: whether help tells the defaults.
        besides: names of settings that the command has in another form.
    """
    groups: list[Decorator] = []
    for name, settings in by_section(settings_of(model, section)).items():
        options = [_option(setting, show_defaults) for setting in settings if setting.name not in besides]
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

    `--recipe` replaces the file's recipe as a whole, every other flag one setting, also of what the file sweeps.

    Raises:
        UserError: a section of the file is no mapping, or the sweep is none.
    """
    merged = dict(fields)
    if flags.get(_RECIPE) is not None:
        merged.pop(_RECIPE, None)
    given = {setting: value for setting in settings_of(model) if (value := flags.get(setting.name)) not in (None, ())}
    try:
        merged = _without(merged, given)
        for setting, value in given.items():
            *sections, name = setting.path
            place = merged
            for section in sections:
                place[section] = place = _mapping(section, place.get(section))
            place[name] = assignments(place.get(name)) | assignments(value) if setting.repeated else value
    except ValueError as error:
        raise UserError(str(error)) from None
    return merged


def _without(fields: dict[str, Any], given: Mapping[Setting, Any]) -> dict[str, Any]:
    """The fields of a spec file without what flags say of the recipe, there or in the file's sweep."""
    once = {setting.path[-1] for setting in given if setting.path[0] == _RECIPE}
    several = {name for setting, value in given.items() if setting.repeated for name in assignments(value)}
    for name in once & several:
        raise ValueError(f"{name} is given twice, by its own flag and by --sweep; say it once")
    changed = dict(fields)
    if once and isinstance(search := fields.get("search"), Mapping) and "sweep" in search:
        sweep = {name: values for name, values in assignments(search["sweep"]).items() if name not in once}
        changed["search"] = {**search, "sweep": sweep}
    if several and isinstance(recipe := fields.get(_RECIPE), Mapping):
        changed[_RECIPE] = {name: value for name, value in recipe.items() if name not in several}
    return changed


def _mapping(section: str, fields: Any) -> dict[str, Any]:
    """A section of a spec file as a copy that can be written to."""
    if section in _WORDS and isinstance(fields, str):
        return {_WORDS[section]: fields}
    if not isinstance(fields, Mapping | None):
        raise UserError(f"{section}: expected a mapping of settings to values (got {fields!r})")
    return dict(fields or {})


class _Choices(click.Choice[str]):
    """One of some words, or a comma list of them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Each word checked by itself."""
        words = [word.strip() for word in str(value).split(",") if word.strip()]
        return ",".join(str(super(_Choices, self).convert(word, param, ctx)) for word in words or [value])


def _type(setting: Setting) -> Any:
    if setting.choices:
        # A field of the recipe can be swept, but for the name, which says what the others start from.
        swept = setting.path[0] == _RECIPE and setting.path[-1] != "name"
        return _Choices(setting.choices) if swept else click.Choice(setting.choices)
    return bool if setting.switch else str


def _option(setting: Setting, show_default: bool) -> Decorator:
    text = sentence(setting)
    if show_default and setting.default:
        text += f"  [default: {setting.default}]"
    return cloup.option(
        flag_of(setting),
        setting.name,
        cls=PagedOption,
        common=setting.common,
        type=_type(setting),
        metavar=setting.metavar or None,
        multiple=setting.repeated,
        default=None,
        help=text,
    )
