"""Plan an experiment, start what is missing, submit it and follow it; shared by `submit` and `study`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import cloup

from ...datasets import DIGITS, Manifest
from ...orchestration.errors import UserError
from ...orchestration.forecast import Fair, variant_epochs, within_budget
from ...orchestration.plan import make_plan
from ...orchestration.preflight import notes, require_machine
from ...orchestration.search.names import slug
from ...orchestration.spec import ExperimentSpec
from ...orchestration.training.settings import settings_of
from ..engines import check_named, ensure_engines
from ..experiments import Experiments
from ..home import Home
from ..jobs import dashboard_address
from ..lifecycle import launch
from ..live_table import forecast_lines, plan_table
from ..predicting import Predictor
from ..start_weights import pin_weights
from .console import print_data, print_line, print_warnings, stderr_console
from .following import follow_to_end, print_pages
from .help_pages import PagedOption, help_all_option
from .options import cost_options, engine_options
from .setting_options import Decorator, merge_flags, setting_options

_FILE = click.Path(path_type=Path)
# Stands in for a name that is made from the data, until these are open.
_UNNAMED = "unnamed"
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


def submission_options(besides: Sequence[str] = ()) -> Decorator:
    """Give a command every setting, and what `submit` takes besides.

    Args:
        besides: settings that the command has in another form.
    """
    options = (
        setting_options(ExperimentSpec, besides=besides),
        engine_options,
        cost_options,
        cloup.option("--spec", "spec_file", type=_FILE, help="YAML file of settings; flags win over it."),
        cloup.option("--save", type=_FILE, help="Write the settings to a YAML file for --spec."),
        cloup.option("--dry-run", is_flag=True, help="Print the plan and stop."),
        cloup.option("--check", cls=PagedOption, is_flag=True, help="Check that the experiment can run, and stop."),
        cloup.option("--detach", is_flag=True, help="Do not follow the experiment."),
        help_all_option,
    )

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def submit(
    fields: dict[str, Any],
    *,
    save: Path | None,
    storage: str | None,
    dry_run: bool,
    check: bool,
    probe: bool | None,
    price_per_hour: float | None,
    budget_hours: float | None,
    detach: bool,
    address: str | None,
    tracking_uri: str | None,
    dashboard_port: int | None,
    mlflow_port: int | None,
    fair: Fair = "epochs",
) -> None:
    """Do what a command with `submission_options` is called for.

    Args:
        fields: of the specification, as people write them.
        fair: what the variants have in common.

    The other arguments are the options' values.
    """
    home = Home.default()
    experiments = Experiments(home)
    if not fields.get("variants"):
        raise UserError("no variants given; say which with --variants, such as b0-b7")
    # Before the data are opened, which may take a while: a typing mistake should be told at once.
    _check_storage(address, storage)
    spec = ExperimentSpec.parse({"name": _UNNAMED, **fields})
    if not (dry_run or check):
        fields = pin_weights(home, fields, storage, tracking_uri)
        spec = ExperimentSpec.parse({"name": _UNNAMED, **fields})
    manifest = home.open_dataset(spec.data, spec.execution.cache_limit, typed="data" in fields)
    # The job runs in another folder; relative ones are made absolute.
    facts = {} if spec.data == DIGITS else {"data": manifest.location}
    if "name" not in fields:
        facts["name"] = experiments.free_name(_default_name(fields, manifest))
    spec = spec.model_copy(update=facts)
    plan = make_plan(spec, manifest)
    print_warnings(experiments.problems())
    if not dry_run:
        # Before anything is measured or started; `launch` checks again.
        experiments.require_free(spec.name)
        check_named(address, tracking_uri)
    predictor = Predictor.at(home, address, may_probe=not (dry_run or check) if probe is None else probe)
    problem, forecast = predictor.refusal(plan), None
    if problem and predictor.here and not dry_run:
        raise UserError(problem)
    if problem and fair != "epochs":
        raise UserError(f"--fair {fair} takes a prediction, but {problem}")
    if not problem:
        if by_variant := variant_epochs(plan, fair, predictor.forecast):
            spec = spec.model_copy(update={"variant_epochs": by_variant})
            plan = make_plan(spec, manifest)
        if budget_hours is not None:
            plan, cut = within_budget(plan, budget_hours, predictor.forecast, lambda spec: make_plan(spec, manifest))
            print_warnings([cut] if cut else [])
        forecast = predictor.forecast(plan)
    if save:
        _write(save, plan.spec)
    told = [*forecast_lines(forecast, price_per_hour), predictor.basis(forecast.shares.costs)] if forecast else []
    if dry_run:
        print_data(plan_table(plan, forecast))
        print_line("\n".join(told or [f"nothing is predicted: {problem}"]))
        return
    if not address:
        require_machine(plan, storage or str(home.experiments))
    for note in notes(plan):
        stderr_console().print(note, soft_wrap=True)
    if check:
        where = "nodes" if address else "local Ray"
        stderr_console().print(f"{spec.name} can run; the {where} will be checked when it begins", soft_wrap=True)
        return
    stderr_console().print(plan_table(plan, forecast))
    print_line("\n".join(told or [f"nothing is predicted: {problem}"]), err=True)
    engines = ensure_engines(home, address, tracking_uri, dashboard_port, mlflow_port)
    experiment = launch(
        home,
        plan,
        engines,
        storage,
        rename="name" not in fields,
        costs=forecast.shares.costs if forecast else None,
        probe=not predictor.here and predictor.may_probe,
    )
    print_pages(experiment)
    name = experiment.name
    if name != spec.name:
        stderr_console().print(f"there is another {spec.name}; this one is {name}")
    if detach:
        stderr_console().print(f"submitted {name}; `effnet-cluster logs {name} -f` follows it")
        return
    sys.exit(follow_to_end(home, experiment))


def given_fields(spec_file: Path | None, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings by precedence, flags and their environment variables over the file, and the options that are none.

    Raises:
        UserError: the file cannot be read, or is wrong.
    """
    settings = {setting.name for setting in settings_of(ExperimentSpec)}
    fields = ExperimentSpec.fields_from_yaml(spec_file) if spec_file else {}
    others = {name: value for name, value in options.items() if name not in settings}
    return merge_flags(ExperimentSpec, fields, options), others


def _default_name(fields: Mapping[str, Any], manifest: Manifest) -> str:
    """A name from the data and the study, or the variants as they were written."""
    variants = fields["variants"]
    text = fields.get("study") or (variants if isinstance(variants, str) else ",".join(variants))
    return f"{slug(manifest.name)}-{slug(text)}"[:50]


def _check_storage(address: str | None, storage: str | None) -> None:
    """Another machine's nodes do not see this one's home."""
    if not address or storage:
        return
    host = urlsplit(dashboard_address(address)).hostname
    if host not in _THIS_MACHINE:
        raise UserError(f"--address {address} needs --storage: a folder or URL that all nodes of that cluster see")


def _write(path: Path, spec: ExperimentSpec) -> None:
    try:
        path.write_text(spec.to_yaml(), "utf-8")
    except OSError as error:
        raise UserError(f"--save {path}: {error.strerror}") from None
