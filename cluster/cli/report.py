"""`effnet-cluster report`: experiments as one HTML file."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import click

from ...datasets import write_atomically
from ...effnet import complexity, network_config
from ...effnet.pretrained import PRETRAINED
from ...orchestration.errors import UserError
from ...orchestration.report.accuracy import PublishedPoint
from ...orchestration.report.report import write_report
from ...orchestration.request import reported
from ..champion import examine, look
from ..experiments import Experiments
from ..home import Home
from ..lifecycle import reconnect_tracking
from .console import print_line


@click.command("report")
@click.argument("experiments", nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), help="File to write.  [default: EXP.html]")
@click.option(
    "--price-per-hour",
    type=click.FloatRange(min=0, min_open=True),
    metavar="PRICE",
    help="Price of one DDP worker per hour.",
)
@click.option("--published", is_flag=True, help="Show the published ImageNet models beside the experiments'.")
@click.option(
    "--champion/--no-champion",
    "with_champion",
    default=True,
    show_default=True,
    help="Show validation images to the best models, for a minute or so each.",
)
@click.option("--open", "open_it", is_flag=True, help="Open it in the web browser.")
def command(
    experiments: tuple[str, ...],
    out: Path | None,
    price_per_hour: float | None,
    published: bool,
    with_champion: bool,
    open_it: bool,
) -> None:
    """Write a report of EXPERIMENTS as one HTML file.

    It works without a network and prints well: what was asked, accuracy against cost, curves, means over seeds, what
    the best model confuses, the sweep's schedule, and how to reproduce it. Each figure can be saved as SVG, and its
    numbers as CSV.

    Experiments on the same data are compared with each other. Starts no Ray.
    """
    names = tuple(dict.fromkeys(experiments))
    path = (out or Path(f"{'-'.join(names)}.html")).absolute()
    if path.is_dir():
        raise UserError(f"--out {out}: that is a folder; name a file")
    home = Home.default()
    known = Experiments(home)
    found = [reconnect_tracking(home, experiment) for experiment in [known.load(name) for name in names]]
    shown = [reported(one.request, one.tracker) for one in found]
    champions = [
        (one.name, examine(home, one, its))
        for one, its in zip(found, shown, strict=True)
        if with_champion and any(record.model_uri for record in its.records)
    ]
    sights = [
        (one.name, look(home, one, its))
        for one, its in zip(found, shown, strict=True)
        if with_champion and its.study and its.study.name == "cam"
    ]
    content = write_report(shown, _published() if published else (), price_per_hour, champions, sights)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    print_line(str(path))
    if open_it and not webbrowser.open(path.as_uri()):
        print_line("warning: there is no web browser here; open the file yourself", err=True)


def _published() -> list[PublishedPoint]:
    """The models whose weights are published, at the size that they were evaluated at."""
    points = []
    for name, info in PRETRAINED.items():
        cost = complexity(network_config(name), info.transform.crop)
        points.append(PublishedPoint(name, cost.params, cost.macs, info.imagenet_top1 / 100))
    return points
