"""Help in two pages: `-h` shows the options that most calls use, `--help-all` shows every one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import click
import cloup
from cloup.formatting import HelpSection, ensure_is_cloup_formatter

from .console import print_text

_ALL = f"{__name__}.all"


class PagedOption(cloup.Option):
    """An option that stands on the first page of help only if it is `common`."""

    def __init__(self, *args: Any, common: bool = False, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.common = common


class PagedCommand(cloup.Command):
    """A command of options alone whose `-h` leaves out those that are not common; completion knows them all."""

    def format_params(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections in which the page that was asked for has something."""
        groups = (*self.option_groups, self.get_default_option_group(ctx))
        sections = [self.make_option_group_help_section(group, ctx) for group in groups]
        shown = [section for section in sections if section.definitions]
        ensure_is_cloup_formatter(formatter).write_many_sections(shown, aligned=self.must_align_option_groups(ctx))

    def make_option_group_help_section(self, group: cloup.OptionGroup, ctx: click.Context) -> HelpSection:
        """A section of the help with the options of the page that was asked for."""
        section = super().make_option_group_help_section(group, ctx)
        if ctx.meta.get(_ALL):
            return section
        common = (option.get_help_record(ctx) for option in group if getattr(option, "common", True))
        return replace(section, definitions=[record for record in common if record], help=None)


def help_all_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a `PagedCommand` the option that shows its second page."""
    return cloup.option(
        "--help-all",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        allow_from_autoenv=False,
        callback=_show_all,
        help="Show all options, not only the common ones.",
    )(command)


def _show_all(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        ctx.meta[_ALL] = True
        print_text(ctx.get_help())
        ctx.exit()
