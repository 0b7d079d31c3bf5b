"""A submitted experiment as a live table, read from the tracking server, so that any machine can follow it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table

from ..orchestration.errors import EngineError
from ..orchestration.forecast import Forecast
from ..orchestration.plan import Plan
from ..orchestration.report.over_seeds import Arm
from ..orchestration.report.quantities import count, duration
from ..orchestration.search.domains import texts_of
from ..orchestration.sizing.cost import TrialCost
from ..orchestration.tracking.comparison import ComparisonRow, swept_fields
from ..orchestration.tracking.progress import TrialProgress, count_states, progress_of
from ..orchestration.tracking.records import Outcome, TrialRecord
from ..orchestration.tracking.watch import TrialWatch
from ..orchestration.training.job import TrialPlan
from .experiments import Experiment
from .jobs import Jobs
from .quantities import show_bytes
from .states import Standing

# Seconds between two looks at the engines, which may have the trainings' own cores: more the longer it takes.
_SHORTEST_POLL_S, _LONGEST_POLL_S = 2.0, 10.0
_POLLS_OF_TIME = 1 / 30
# Rows of the live table, and the states that come first where there are more trials.
_MOST_ROWS = 40
_FIRST: Mapping[Outcome | None, int] = {Outcome.RUNNING: 0, Outcome.FAILED: 1, Outcome.INTERRUPTED: 1}
# Trials of a critical path that are named.
_PATH = 6
# What tells arms apart, shown where they differ in it.
_ARM = ("experiment", "variant", "activation", "shortcut", "image_size", "epochs", "data")
_PREDICTED = ("predicted", "actual")


def follow(experiment: Experiment, plan: Plan, jobs: Jobs, console: Console) -> bool:
    """Show the experiment's trials until its job ends; returns whether the job succeeded.

    On a terminal a table is kept up to date; elsewhere each change of a trial is a line.
    """
    if console.is_terminal:
        with Live(progress_table(plan, []), console=console, refresh_per_second=2, transient=True) as live:
            for records in _watch(experiment, jobs, console):
                live.update(progress_table(plan, records))
    else:
        shown: dict[str, str] = {}
        for records in _watch(experiment, jobs, console):
            for record in records:
                line = _progress_line(record)
                if shown.get(record.trial_id) != line:
                    shown[record.trial_id] = line
                    console.print(line, soft_wrap=True)
    return jobs.status(experiment.job) == "SUCCEEDED"


def _watch(experiment: Experiment, jobs: Jobs, console: Console) -> Iterator[Sequence[TrialRecord]]:
    """The trials' records again and again, and once more after the job's end.

    While the tracking server is away, the latest ones known: the experiment goes on without it.
    """
    active, began, away = True, time.monotonic(), False
    watch = TrialWatch(experiment.tracker)
    records: Sequence[TrialRecord] = ()
    while active:
        active = jobs.is_active(experiment.job)
        try:
            records = watch.look() if active else watch.look_at_all()
            away = False
        except EngineError as error:
            if not active:
                raise
            if not away:
                console.print(f"{error}; the experiment goes on", soft_wrap=True)
            away = True
        yield records
        if active:
            elapsed = time.monotonic() - began
            time.sleep(min(max(_SHORTEST_POLL_S, elapsed * _POLLS_OF_TIME), _LONGEST_POLL_S))


def plan_table(plan: Plan, forecast: Forecast | None = None) -> Table:
    """What will run, one row per trial; with a forecast also what it takes."""
    spec = plan.spec
    table = Table(
        title=f"{spec.name}: {plan.trial_count} trials × {spec.execution.workers} DDP workers, {_epochs(plan)} epochs "
        f"on {plan.train_samples:,} + {plan.val_samples:,} images of {len(plan.classes)} classes{_tail(plan)}",
        title_justify="left",
    )
    swept = list(spec.search.sweep)
    _columns(table, "trial", *swept, "params", "MACs", "image", "batches/epoch")
    if forecast is not None:
        for name in ("workers", "batch", "memory/worker", "steps", "start, end", "s/step", "total"):
            table.add_column(name, justify="right")
    for trial in plan.examples:
        table.add_row(
            trial.trial_id,
            *texts_of(trial.swept, swept),
            count(trial.params),
            count(trial.macs),
            f"{trial.image_size} px",
            f"{trial.batches_per_epoch} × {trial.recipe.global_batch}",
            *(_cost_cells(forecast.costs[trial.trial_id]) if forecast else ()),
        )
    return table


def _cost_cells(cost: TrialCost) -> tuple[str, ...]:
    batch = f"{cost.micro_batch} × {cost.accumulation} × {cost.workers}"
    memory = show_bytes(cost.memory) + (f" + {show_bytes(cost.gpu_memory)} GPU" if cost.gpu_memory else "")
    step = f"{cost.step_seconds:.3g}"
    return (
        str(cost.workers),
        batch,
        memory,
        f"{cost.steps:,}",
        duration(cost.start + cost.end),
        step,
        duration(cost.seconds),
    )


def forecast_lines(forecast: Forecast, price: float | None = None) -> Iterator[str]:
    """What the whole sweep takes, a line each; `price` is of one worker per hour."""
    cost = "" if price is None else f", {price * forecast.worker_hours:,.2f} at {price:g} per worker-hour"
    yield f"makespan {duration(forecast.makespan)}, {forecast.worker_hours:.3g} worker-hours{cost}"
    path = forecast.critical_path
    shown = path if len(path) <= _PATH else (*path[: _PATH - 1], f"{len(path) - _PATH} more", path[-1])
    yield f"critical path: {' → '.join(shown)}"


def _epochs(plan: Plan) -> str:
    """How many epochs the trials train, such as `10` or `5 to 20`."""
    swept = plan.spec.search.sweep.get("epochs")
    epochs = set(swept.ends) if swept else {trial.recipe.epochs for trial in plan.examples}
    return f"{min(epochs)} to {max(epochs)}" if len(epochs) > 1 else str(*epochs)


def _tail(plan: Plan) -> str:
    """What becomes of the images at an epoch's end that fill no batch."""
    recipes = [trial.recipe for trial in plan.examples]
    left = [plan.train_samples % recipe.global_batch for recipe in recipes]
    if not any(left):
        return ""
    if {recipe.tail for recipe in recipes} == {"carry"}:
        return ", an epoch's last carried over"
    most = max(left)
    if min(left) == most and {recipe.tail for recipe in recipes} == {"drop"}:
        return f", {most} of them left out in every epoch"
    return f", up to {most} of them left out in every epoch, by global batch and tail"


def progress_table(plan: Plan, records: Sequence[TrialRecord]) -> Table:
    """How the trials of an experiment that runs stand. Of many, the rows are those that tell most."""
    known: Mapping[str, TrialRecord | TrialPlan] = {
        **{trial.trial_id: trial for trial in plan.trials},
        **{record.trial_id: record for record in records},
    }
    rows = progress_of(plan.trials, records, Outcome.RUNNING)
    table = Table(title=f"{plan.spec.name}: {count_states(rows)}", title_justify="left")
    swept = list(plan.spec.search.sweep)
    _columns(table, "trial", *swept, "params", "MACs", "epoch", "loss", "val top-1", "images/s", "state")
    for row in _telling(rows):
        found = known[row.trial]
        record = found if isinstance(found, TrialRecord) else None
        table.add_row(
            row.trial,
            *texts_of(found.swept, swept),
            count(found.params),
            count(found.macs),
            f"{row.epoch}/{row.epochs}" if record else "",
            _number(record.epoch_loss if record else None, ".4f"),
            _number(record.top1 if record else None, ".4f"),
            _number(record.images_per_second if record else None, ".0f"),
            row.state,
        )
    return table


def _telling(rows: Sequence[TrialProgress]) -> Sequence[TrialProgress]:
    """All rows of a table that a terminal holds, else those that run and have failed, then others; in their order."""
    urgent = sorted(range(len(rows)), key=lambda number: _FIRST.get(rows[number].state, len(_FIRST)))
    return [rows[number] for number in sorted(urgent[:_MOST_ROWS])]


def standing_table(name: str, standing: Standing) -> Table:
    """How the trials of an experiment stand, whether it runs or not."""
    state, counts = standing.state or "unknown", count_states(standing.trials)
    table = Table(title=f"{name}: {state}; {counts}", title_justify="left")
    _columns(table, "trial", "state", "epoch", "top-1", "elapsed", "predicted rest")
    table.add_column("reason")
    for row in standing.trials:
        table.add_row(
            row.trial,
            row.state or "unknown",
            f"{row.epoch}/{row.epochs}",
            _number(row.top1, ".4f"),
            "" if row.elapsed_s is None else duration(row.elapsed_s),
            "" if row.rest_s is None else duration(row.rest_s),
            row.reason,
        )
    return table


def comparison_table(rows: Sequence[ComparisonRow]) -> Table:
    """The comparison of trials; the ratios are those of the paper's table 2, relative to the smallest model."""
    table = Table(title="accuracy against cost", title_justify="left")
    swept, fronted = swept_fields(rows), any(row.front is not None for row in rows)
    _columns(
        table,
        "trial",
        *swept,
        *(["front"] if fronted else []),
        "top-1",
        "top-5",
        "params",
        "ratio",
        "MACs",
        "ratio",
        "image",
        "images/s",
        "time",
        "predicted",
        "actual",
        "outcome",
    )
    for row in rows:
        table.add_row(
            row.trial,
            *texts_of(row.swept, swept),
            *(["*" if row.front else ""] if fronted else []),
            _number(row.top1, ".4f"),
            _number(row.top5, ".4f"),
            count(row.params),
            f"{row.params_ratio:.1f}x",
            count(row.macs),
            f"{row.macs_ratio:.1f}x",
            f"{row.image_size} px",
            _number(row.images_per_second, ".0f"),
            duration(row.seconds),
            _duration(row.predicted_seconds),
            _duration(row.actual_seconds),
            row.outcome,
        )
    return table


def arms_table(arms: Sequence[Arm]) -> Table:
    """What the seeds of each arm have in common, and whether it differs from the smallest model."""
    table = Table(title="best top-1 over seeds", title_justify="left")
    tested = [arm.pairs for arm in arms if arm.p is not None]
    if tested:
        most = max(tested)
        table.caption = (
            f"p: sign-flip test of paired seeds, Holm's correction; {most} pairs give {2 / 2**most:.2g} at least"
        )
        table.caption_justify = "left"
    swept = swept_fields(arms)
    names = [name for name in _ARM if name == "variant" or len({getattr(arm, name) for arm in arms}) > 1]
    shown = (name.replace("_", " ") for name in names)
    _columns(table, *shown, *swept, "seeds", "mean ± sd", "95% interval", "to the first", "p")
    for arm in arms:
        own = (str(getattr(arm, name)) for name in names)
        interval = "" if arm.low is None or arm.high is None else f"{arm.low:.4f} to {arm.high:.4f}"
        mean = f"{arm.mean:.4f}" if arm.sd is None else f"{arm.mean:.4f} ± {arm.sd:.4f}"
        compared = "" if arm.baseline else _number(arm.difference, "+.4f"), _number(arm.p, ".2g")
        table.add_row(*own, *texts_of(arm.swept, swept), str(len(arm.seeds)), mean, interval, *compared)
    return table


def _progress_line(record: TrialRecord) -> str:
    line = f"{record.trial_id}  {record.outcome.value}  epoch {record.epochs_done}/{record.epochs}"
    if record.top1 is not None and record.epoch_loss is not None:
        line += f"  loss {record.epoch_loss:.4f}  val top-1 {record.top1:.4f}"
    return line


def _columns(table: Table, first: str, *others: str) -> None:
    """The name may not wrap, numbers stand right."""
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right")


def _duration(seconds: float | None) -> str:
    return "" if seconds is None else duration(seconds)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
