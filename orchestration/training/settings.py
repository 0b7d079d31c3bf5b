"""Settings: what a person can set, read off the fields of pydantic models.

A field is the only place that describes a setting. Flags, help, spec files, logged parameters and the page of settings
all come from `settings_of`, so that a new setting is one new field.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo


@dataclass(frozen=True)
class Shown:
    """How a field is shown to people, beside its name, type, description and default.

    Attributes:
        common: whether the setting stands on the first page of help.
        section: heading of the setting in help; the default is the section of the spec file.
        name: name of the flag and of the logged parameter, where it differs from the field's.
        metavar: what a flag takes, such as `LIST`; the default is the type's name.
        default: what holds where nothing is set, in words; the default is the field's.
    """

    common: bool = False
    section: str | None = None
    name: str | None = None
    metavar: str | None = None
    default: str | None = None


@dataclass(frozen=True)
class Setting:
    """One thing that a person can set.

    Attributes:
        name: unique name; the flag is made of it.
        path: where a spec file has it: `("data",)` or `("recipe", "epochs")`.
        section: heading in help; empty for what belongs to none.
        switch: whether it is on or off.
        repeated: whether a flag can be given several times, each with an entry of a mapping.
        choices: the only words allowed; empty if there are others.
        metavar: what a flag takes, such as `INTEGER`.
        description: what it is, in a sentence without its full stop.
        default: what holds where nothing is set, as a person writes it; empty if that is nothing.
        common: whether it stands on the first page of help.
    """

    name: str
    path: tuple[str, ...]
    section: str
    switch: bool
    repeated: bool
    choices: tuple[str, ...]
    metavar: str
    description: str
    default: str
    common: bool


_METAVARS: dict[Any, str] = {bool: "", int: "INTEGER", float: "FLOAT"}


@cache
def settings_of(model: type[BaseModel], section: str = "") -> tuple[Setting, ...]:
    """Every setting of a model, in the order of its fields; a field that is a model itself is a section of settings.

    Raises:
        TypeError: a field has no description. In a union with None it stands around the whole: `Annotated[int | None,
            Field(description="…")]`.
    """
    return tuple(_settings(model, section))


def params_of(value: BaseModel) -> dict[str, Any]:
    """The settings of a value by their unique names, sections flattened; what is None or {} is left out."""
    fields = value.model_dump(mode="json")
    params = {}
    for setting in settings_of(type(value)):
        found: Any = fields
        for part in setting.path:
            found = found[part]
        if found is not None and found != {}:
            params[setting.name] = found
    return params


def by_section(settings: Iterable[Setting]) -> dict[str, list[Setting]]:
    """Settings by the heading under which help shows them, in the order of their first ones."""
    sections: dict[str, list[Setting]] = {}
    for setting in settings:
        sections.setdefault(setting.section, []).append(setting)
    return sections


def _settings(model: type[BaseModel], section: str) -> Iterator[Setting]:
    for name, field in model.model_fields.items():
        path = (section, name) if section else (name,)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings_of(field.annotation, name)
            continue
        if not field.description:
            raise TypeError(f"{model.__name__}.{name} has no description")
        shown = next((note for note in field.metadata if isinstance(note, Shown)), Shown())
        plain = _plain(field.annotation)
        choices = tuple(map(str, get_args(plain))) if get_origin(plain) is Literal else ()
        yield Setting(
            name=shown.name or name,
            path=path,
            section=section if shown.section is None else shown.section,
            switch=plain is bool,
            repeated=get_origin(plain) is Mapping,
            choices=choices,
            metavar=shown.metavar or (f"[{'|'.join(choices)}]" if choices else _METAVARS.get(plain, "TEXT")),
            description=field.description,
            default=_default(field) if shown.default is None else shown.default,
            common=shown.common,
        )


def _plain(annotation: Any) -> Any:
    """The type of a field without None and without pydantic's limits."""
    while get_origin(annotation) in (Union, UnionType, Annotated):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    return annotation


def _default(field: FieldInfo) -> str:
    value = field.default
    if field.is_required() or value is None:
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    # A named tuple, such as a range of workers, writes itself.
    return ",".join(map(str, value)) if type(value) is tuple else str(value)
