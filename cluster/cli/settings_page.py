"""Writes docs/settings.md, the table of all settings, from the fields themselves: `make docs`."""

from __future__ import annotations

from ...orchestration.spec import ExperimentSpec
from ...orchestration.training.settings import Setting, by_section, settings_of
from .console import print_text
from .setting_options import SECTION_HELP, flag_of, sentence

_INTRODUCTION = """\
# Settings

This page lists every setting of an experiment. `make docs` writes it from the fields of `ExperimentSpec`, `Recipe` and
`Execution`; a new field appears here, as a flag, in spec files and in MLflow.

A setting can be given in three ways. The first one that says something wins:

1. a flag: `effnet-cluster submit --variants b0 --epochs 5`
2. an environment variable, `EFFNET_CLUSTER_SUBMIT_` and the flag in capitals: `EFFNET_CLUSTER_SUBMIT_EPOCHS=5`
3. a spec file, `effnet-cluster submit --spec FILE.yaml`, with the keys below; what follows a dot
   stands in a section:

```yaml
variants: b0-b3
recipe:
  name: small
  epochs: 5
execution:
  workers: 2:4
```

A value means in a file what it means in a flag: `seeds: 0-4`, `workers: 2:4`, `augment: off`. A list may also be one of
YAML. A key that is there twice is an error.

`submit --dry-run --save FILE.yaml` writes such a file. MLflow logs each setting as a parameter with the flag's name.
`effnet-cluster resume` takes the settings under Execution anew.
"""


def settings_page(model: type[ExperimentSpec] = ExperimentSpec) -> str:
    """The page in Markdown: a table per section."""
    parts = [_INTRODUCTION]
    for section, settings in by_section(settings_of(model)).items():
        note = SECTION_HELP.get(section)
        parts += [f"## {section.capitalize() or 'General'}", *([note] if note else []), _table(settings)]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _table(settings: list[Setting]) -> str:
    rows: list[tuple[str, ...]] = [("flag", "in a spec file", "default", "what it is"), ("---",) * 4]
    for setting in settings:
        flag = f"`{flag_of(setting)} {setting.metavar}".rstrip() + "`"
        rows.append((flag, f"`{'.'.join(setting.path)}`", setting.default, sentence(setting)))
    return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in rows)


def _cell(text: str) -> str:
    """A bar would end the cell, also in code."""
    return text.replace("|", r"\|")


if __name__ == "__main__":
    print_text(settings_page(), nl=False)
