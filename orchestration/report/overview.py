"""The first and the last sections: what was asked, the trials and their means over seeds, and how to reproduce it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..search.domains import texts_of
from ..tracking.comparison import swept_fields
from ..tracking.records import TrialRecord
from .contents import DataSet, Reported, all_trials, best_epoch, data_sets
from .over_seeds import Arm, arms_of
from .parts import Code, Facts, Numbers, Part, Section, Table
from .quantities import count, duration

_LEFT = frozenset({"experiment", "trial", "outcome", "reason", "variant", "activation", "shortcut", "data"})
# Rows of the receipts' CSV.
_MOST_RECEIPTS = 40_000


def asked(experiments: Sequence[Reported]) -> Section:
    """What was asked, on what data and hardware."""
    parts: list[Part] = []
    for experiment in experiments:
        several = f"{experiment.name}: " if len(experiments) > 1 else ""
        for title, values in (
            ("What was asked", experiment.asked),
            ("Data", experiment.data),
            ("Hardware", experiment.hardware),
        ):
            if values:
                parts.append(Facts(f"{several}{title}", values))
        settings = "\n".join(f"{name} = {value}" for name, value in experiment.settings.items())
        if settings:
            parts.append(Code(f"{several}all settings", settings, folded=True))
    return Section("asked", "What was asked", parts)


def trials(experiments: Sequence[Reported]) -> Section:
    """A row per trial, with its best and its last epoch."""
    found = sorted(all_trials(experiments), key=lambda pair: (pair[0].name, -(pair[1].best_top1 or -1.0)))
    if not found:
        return Section("trials", "Trials")
    records = [record for _, record in found]
    swept = swept_fields(records)
    several, told = len(experiments) > 1, any(record.reason for record in records)
    columns = [
        *(["experiment"] if several else []),
        *("trial", *swept, "params", "MACs", "image", "best top-1", "of epoch", "last top-1", "last top-5", "epochs"),
        *("training", "outcome", *(["reason"] if told else [])),
    ]
    rows = []
    for experiment, record in found:
        best = best_epoch(experiment.epochs(record))
        rows.append(
            [
                *([experiment.name] if several else []),
                record.trial_id,
                *texts_of(record.swept, swept),
                count(record.params),
                count(record.macs),
                f"{record.image_size} px",
                number(record.best_top1),
                str(best.epoch) if best else "",
                number(record.top1),
                number(record.top5),
                f"{record.epochs_done}/{record.epochs}",
                duration(record.seconds) if record.epochs_done else "",
                record.outcome.value,
                *([record.reason] if told else []),
            ]
        )
    caption = "Top-1 and top-5 are fractions of the validation images. Trials stand in the order of their best top-1."
    table = Table("trials", "", columns, rows, _trial_numbers(found, swept), caption, _LEFT | {*swept})
    return Section("trials", "Trials", [table])


def _trial_numbers(found: Sequence[tuple[Reported, TrialRecord]], swept: Sequence[str]) -> Numbers:
    own = ("variant", "activation", "shortcut", "seed", "image_size", "params", "macs", "global_batch", "epochs")
    measured = ("epochs_done", "best_top1", "top1", "top5", "seconds", "predicted_seconds", "elapsed")
    columns = ("experiment", "trial", "data", *own, *measured, "best_epoch", "outcome", "reason", *swept)
    rows = []
    for experiment, record in found:
        best = best_epoch(experiment.epochs(record))
        values = [getattr(record, name) for name in (*own, *measured)]
        last = (best.epoch if best else None, record.outcome.value, record.reason)
        given = [record.swept.get(name) for name in swept]
        rows.append((experiment.name, record.trial_id, record.data_digest[:12], *values, *last, *given))
    return Numbers(columns, rows)


def over_seeds(experiments: Sequence[Reported]) -> Section:
    """The mean of each arm over its seeds, of the best and of the last epoch."""
    sets = data_sets(experiments)
    parts = [table for data in sets if (table := _arms(data, len(sets)))]
    return Section("seeds", "Means over seeds", parts)


def _arms(data: DataSet, of: int) -> Table | None:
    by_name = data.by_experiment
    arms = arms_of(by_name)
    if not any(len(arm.seeds) > 1 for arm in arms):
        return None
    lasts = arms_of({name: [replace(one, best_top1=one.top1) for one in found] for name, found in by_name.items()})
    last = {_key(arm): arm for arm in lasts}
    swept = swept_fields(arms)
    names = [
        name
        for name in ("experiment", "variant", "activation", "shortcut", "image_size", "epochs")
        if name == "variant" or len({getattr(arm, name) for arm in arms}) > 1
    ]
    measured = ["seeds", "best: mean ± sd", "95% interval", "last: mean ± sd", "to the first", "p"]
    rows, numbers = [], []
    for arm in arms:
        of_last = last.get(_key(arm))
        given, own = texts_of(arm.swept, swept), [getattr(arm, name) for name in names]
        interval = "" if arm.low is None or arm.high is None else f"{arm.low:.4f} to {arm.high:.4f}"
        compared = ["", ""] if arm.baseline else [number(arm.difference, "+.4f"), number(arm.p, ".2g")]
        shown = [str(len(arm.seeds)), _mean(arm), interval, _mean(of_last) if of_last else ""]
        rows.append([*map(str, own), *given, *shown, *compared])
        values = (arm.mean, arm.sd, arm.low, arm.high, of_last and of_last.mean, of_last and of_last.sd)
        numbers.append([*own, *given, len(arm.seeds), *values, arm.difference, arm.pairs, arm.p])
    titles = ("seeds", "best_mean", "best_sd", "best_low", "best_high", "last_mean", "last_sd", "difference")
    return Table(
        f"seeds-{data.number}",
        data.title("Top-1 of completed trials", of),
        [*(name.replace("_", " ") for name in names), *swept, *measured],
        rows,
        Numbers([*names, *swept, *titles, "pairs", "p"], numbers),
        f"Each row: completed trials that differ in their seeds alone. {tested(arms)}",
        _LEFT | {*swept},
    )


def tested(arms: Sequence[Arm]) -> str:
    """How p was found, and how small it can be; of arms without any, nothing."""
    pairs = [arm.pairs for arm in arms if arm.p is not None]
    if not pairs:
        return "The interval is the mean's percentile bootstrap."
    most = max(pairs)
    return (
        "The interval is the mean's percentile bootstrap. p is that of a sign-flip test of paired seeds' differences "
        f"to the first row, with Holm's correction; {most} pairs give {2 / 2**most:.2g} at least."
    )


def _key(arm: Arm) -> tuple[object, ...]:
    own = (arm.experiment, arm.variant, arm.activation, arm.shortcut, arm.image_size, arm.epochs, arm.seeds)
    return (*own, str(dict(arm.swept)))


def _mean(arm: Arm) -> str:
    return number(arm.mean) if arm.sd is None else f"{arm.mean:.4f} ± {arm.sd:.4f}"


def reproduce(experiments: Sequence[Reported]) -> Section:
    """How to train the same again, and what the trials say that they consumed."""
    parts: list[Part] = []
    for experiment in experiments:
        name = experiment.name
        file = f"{name}.yaml"
        parts += [
            Facts(name, experiment.made_with),
            f"Save the specification as {file}, then: effnet-cluster submit --spec {file} --name {name}-again. "
            f"Whether the trials consumed the samples that the data set says: effnet-cluster verify {name}.",
            Code(file, experiment.spec_yaml, folded=True),
        ]
    receipts = _receipts(experiments)
    return Section("reproduce", "Receipts, and how to reproduce", [*parts, *([receipts] if receipts else [])])


def _receipts(experiments: Sequence[Reported]) -> Table | None:
    rows: list[list[str]] = []
    numbers: list[tuple[Any, ...]] = []
    for experiment, record in all_trials(experiments):
        known = [point for point in experiment.epochs(record) if point.receipt is not None]
        for point in known:
            numbers.append((experiment.name, record.trial_id, point.epoch, f"{point.receipt:016x}"))
        if known:
            digest = record.data_digest[:12]
            last = known[-1]
            own = [experiment.name, record.trial_id, str(record.seed), str(record.global_batch), digest]
            rows.append([*own, str(last.epoch), f"{last.receipt:016x}"])
    if not rows:
        return None
    epochs = len(numbers)
    every = epochs <= _MOST_RECEIPTS
    if not every:
        numbers = [(experiment, trial, epoch, receipt) for experiment, trial, *_, epoch, receipt in rows]
    told = (
        "The CSV has those of every epoch." if every else f"Of {epochs:,} epochs, the CSV has the last of each trial."
    )
    return Table(
        "receipts",
        "Receipts",
        ["experiment", "trial", "seed", "global batch", "data digest", "last epoch", "its receipt"],
        rows,
        Numbers(("experiment", "trial", "epoch", "receipt"), numbers),
        "A receipt is a hash of the samples that an epoch consumed. Trials of the same data, seed, global batch and "
        f"tail have the same receipts. {told}",
        _LEFT,
    )


def number(value: float | None, form: str = ".4f") -> str:
    """A number for people; None is empty."""
    return "" if value is None else format(value, form)
