"""Activation × variant as a heat map: means over seeds, and which activations differ from the first one."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..search.domains import texts_of
from ..tracking.records import TrialRecord
from .contents import DataSet, Reported, data_sets
from .parts import SCALE, Figure, Numbers, Section, label
from .significance import SIGNIFICANT, Seeds, differences

# Heat maps of a data set, those with the most cells; a sweep over other fields has one for each of their values.
_MOST_MAPS = 4
# Light to dark, of one hue: its order is legible in grey, and black text on its lower half.


@dataclass(frozen=True)
class Cell:
    """Trials of one variant and activation that differ in their seeds alone.

    Attributes:
        top1s: the best of each seed, ascending by seed.
        difference: the mean difference to the same variant's trials with the first activation, over the seeds that both
            have; None for these themselves, or without such seeds.
        pairs: how many these are.
        p: of a sign-flip test of these differences, with Holm's correction for all cells of the map; None of fewer than
            two pairs.
    """

    variant: str
    activation: str
    top1s: Sequence[float]
    difference: float | None = None
    pairs: int = 0
    p: float | None = None

    @property
    def mean(self) -> float:
        """Of the seeds."""
        return statistics.fmean(self.top1s)

    @property
    def sd(self) -> float | None:
        """The sample's standard deviation; None of one seed."""
        return statistics.stdev(self.top1s) if len(self.top1s) > 1 else None


def activations(experiments: Sequence[Reported]) -> Section:
    """A heat map per data set, and per value of the other fields that trials differ in."""
    sets = data_sets(experiments)
    figures = []
    for data in sets:
        maps = sorted(_maps(data).items(), key=lambda item: -len(item[1]))
        for number, (title, cells) in enumerate(maps[:_MOST_MAPS], 1):
            shown = data.title(f"Activation × variant{title}", len(sets))
            figures.append(_heat_map(f"activations-{data.number}-{number}", shown, cells, len(maps)))
    return Section("activations", "Activations", figures)


def _maps(data: DataSet) -> dict[str, list[Cell]]:
    """The cells of each map, by its title; only maps in which a variant has two activations or more."""
    found: dict[tuple[str, ...], dict[tuple[str, str], dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for experiment, record in data.trials:
        if (top1 := record.final_top1) is not None:
            found[_others(experiment, record)][record.variant, record.activation][record.seed] = top1
    made = {}
    for others, by_cell in found.items():
        if len(by_cell) > len({variant for variant, _ in by_cell}):
            apart = [parts for parts in zip(*found, strict=True) if len(set(parts)) > 1]
            told = [text for text in others if any(text in parts for parts in apart)]
            made[f" ({', '.join(told)})" if told else ""] = cells_of(by_cell)
    return made


def _others(experiment: Reported, record: TrialRecord) -> tuple[str, ...]:
    """What must be the same within a map. The image size follows from the variant."""
    swept = [f"{name} {text}" for name, text in zip(record.swept, texts_of(record.swept, record.swept), strict=True)]
    parts = (experiment.name, record.shortcut, f"{record.epochs} epochs", f"batch {record.global_batch}")
    return (*parts, ", ".join(swept))


def cells_of(by_cell: Mapping[tuple[str, str], Seeds]) -> list[Cell]:
    """Cells with the differences to the first activation of the same variant, tested.

    Args:
        by_cell: of each (variant, activation), the best top-1 of its seeds.
    """
    first = next(iter(by_cell))[1]
    baselines = [by_cell.get((variant, first), {}) if activation != first else {} for variant, activation in by_cell]
    compared = differences(list(zip(by_cell.values(), baselines, strict=True)))
    return [
        Cell(
            variant=variant,
            activation=activation,
            top1s=[seeds[seed] for seed in sorted(seeds)],
            difference=difference.mean,
            pairs=difference.pairs,
            p=difference.p,
        )
        for ((variant, activation), seeds), difference in zip(by_cell.items(), compared, strict=True)
    ]


def _heat_map(key: str, title: str, cells: Sequence[Cell], maps: int) -> Figure:
    variants, names = (list(dict.fromkeys(getattr(cell, of) for cell in cells)) for of in ("variant", "activation"))
    at = {(cell.variant, cell.activation): cell for cell in cells}
    grid = [[at.get((variant, name)) for variant in variants] for name in names]
    heat: dict[str, Any] = {
        "type": "heatmap",
        "x": [label(variant) for variant in variants],
        "y": [label(name) for name in names],
        "z": [[None if cell is None else cell.mean for cell in row] for row in grid],
        "text": [["" if cell is None else _text(cell) for cell in row] for row in grid],
        "texttemplate": "%{text}",
        "hovertemplate": "%{x}, %{y}<br>%{text}<extra></extra>",
        "colorscale": SCALE,
        "colorbar": {"title": {"text": "top-1"}, "tickformat": ".3~f", "thickness": 14},
        "xgap": 2,
        "ygap": 2,
    }
    return Figure(
        key=key,
        title=title,
        caption=_caption(names[0], cells) + (f" Of {maps} such maps, {_MOST_MAPS} are shown." * (maps > _MOST_MAPS)),
        data=[heat],
        layout={
            "xaxis": {"title": {"text": "variant"}, "type": "category", "showgrid": False},
            "yaxis": {"type": "category", "autorange": "reversed", "showgrid": False},
        },
        numbers=Numbers(
            ("variant", "activation", "seeds", "mean_top1", "sd", "difference", "pairs", "p"),
            [
                (one.variant, one.activation, len(one.top1s), one.mean, one.sd, one.difference, one.pairs, one.p)
                for one in cells
            ],
        ),
        height=160 + 70 * len(names),
    )


def _text(cell: Cell) -> str:
    """What a cell says: mean and standard deviation, and below the difference and whether it is significant."""
    mean = f"{cell.mean:.4f}" if cell.sd is None else f"{cell.mean:.4f} ± {cell.sd:.4f}"
    if cell.difference is None:
        return mean
    mark = "*" if cell.p is not None and cell.p < SIGNIFICANT else ""
    p = "" if cell.p is None else f", p {cell.p:.2g}"
    return f"{mean}<br>{cell.difference:+.4f}{mark}{p}"


def _caption(first: str, cells: Sequence[Cell]) -> str:
    tested = [cell.pairs for cell in cells if cell.p is not None]
    told = (
        f"Best top-1, mean ± standard deviation over seeds; below, the mean difference to {first} over the same seeds."
    )
    if not tested:
        return told
    most = max(tested)
    return (
        f"{told} p is that of their sign-flip test, with Holm's correction for the cells of the map; an "
        f"asterisk says p < {SIGNIFICANT}. {most} pairs give {2 / 2**most:.2g} at least."
    )
