"""`effnet-cluster data prepare`: write images as WebDataset shards with a manifest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from ...datasets import (
    Account,
    Columns,
    Mapper,
    Reencoding,
    Understanding,
    parse_splits,
    prepare,
    processes,
    read_class_map,
)
from ...datasets import PreparingProgress as Step
from ...orchestration.errors import UserError
from .bar import progress_bar
from .console import stderr_console
from .data_report import print_account, print_duplicates, print_result


@click.command("prepare")
@click.argument("source")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--name", help="Name of the data set.  [default: the source's]")
@click.option("--val-fraction", type=float, default=0.2, show_default=True, help="Share for val, if SOURCE has no val.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the split and of the order.")
@click.option("--mirror/--no-mirror", default=True, show_default=True, help="Whether a mirrored image keeps its class.")
@click.option("--max-side", type=int, metavar="PIXELS", help="Shrink larger images to this longer side, as JPEG.")
@click.option("--quality", type=int, default=90, show_default=True, help="Quality of these JPEGs.")
@click.option(
    "--pixel-duplicates", is_flag=True, help="Compare the splits by pixels too, not only by bytes; three times slower."
)
@click.option("--drop-duplicates", is_flag=True, help="Leave images out of train that are in val or test too.")
@click.option(
    "--splits",
    metavar="SPLIT=FOLDER,…",
    help="Which folders are splits, where their names leave doubt: train=Train,val=Test, */NAME for a folder in each "
    "class, or none.",
)
@click.option(
    "--class-map",
    type=click.Path(path_type=Path),
    help="CSV with the columns from,to: new class names, in the order of the labels; no name leaves a class out.",
)
@click.option("--one-class", is_flag=True, help="Allow a single class.")
@click.option(
    "--on-corrupt",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="Whether damaged images end the command, when all are found, or are left out.",
)
@click.option("--name-encoding", metavar="NAME", help="Encoding of the names in a .zip, such as gbk.  [default: UTF-8]")
@click.option("--path-column", default="path", show_default=True, help="Column of a .csv with paths.")
@click.option("--label-column", default="label", show_default=True, help="Column with labels.")
@click.option("--split-column", default="split", show_default=True, help="Column with splits, if any.")
@click.option("--workers", type=int, help="Processes that build shards.  [default: one per core]")
@click.option("--ray", is_flag=True, help="Build shards on Ray: a running instance of this machine, or a new one.")
@click.option("--address", metavar="HOST:PORT", help="Build shards on this Ray cluster; all its nodes must see OUT.")
def command(
    source: str,
    out: Path,
    name: str | None,
    val_fraction: float,
    seed: int,
    mirror: bool,
    max_side: int | None,
    quality: int,
    pixel_duplicates: bool,
    drop_duplicates: bool,
    splits: str | None,
    class_map: Path | None,
    one_class: bool,
    on_corrupt: str,
    name_encoding: str | None,
    path_column: str,
    label_column: str,
    split_column: str,
    workers: int | None,
    ray: bool,
    address: str | None,
) -> None:
    """Write the images of SOURCE to OUT as shards. Called again after Ctrl-C or a crash, it continues.

    SOURCE is a folder of class folders, perhaps in folders for train, val and test, or one with Hugging Face's
    metadata.csv; an archive of either (tar, also compressed, or zip); a .csv with the columns path, label and,
    optionally, split; or torchvision:NAME@FOLDER, a data set whose files are in FOLDER already, NAME being CIFAR10,
    CIFAR100, Flowers102, StanfordCars, FGVCAircraft, OxfordIIITPet, Food101 or ImageNet. Shards that exist already
    need no preparing: see `data index`.

    Every file ends as a sample, ignored for a reason that is told, or damaged.
    """
    console = stderr_console()
    reencoding = None if max_side is None else Reencoding(max_side, quality)
    accounts: list[Account] = []
    with _mapper(workers, ray, address) as mapper, progress_bar(console, "preparing") as show:

        def step(now: Step) -> None:
            show(now.done, now.total, now.stage)

        manifest = prepare(
            source,
            out,
            name=name,
            val_fraction=val_fraction,
            seed=seed,
            reencoding=reencoding,
            understanding=Understanding(
                splits=None if splits is None else parse_splits(splits),
                columns=Columns(path_column, label_column, split_column),
                name_encoding=name_encoding,
            ),
            class_map=None if class_map is None else read_class_map(class_map),
            one_class=one_class,
            skip_damaged=on_corrupt == "skip",
            pixel_duplicates=pixel_duplicates,
            drop_duplicates=drop_duplicates,
            mirror_safe=mirror,
            mapper=mapper,
            progress=step,
            note=lambda line: console.print(line, soft_wrap=True),
            report=lambda found: print_duplicates(found, "--drop-duplicates leaves them out of train"),
            accounted=accounts.append,
        )
    for account in accounts:
        print_account(account, out)
    print_result(manifest, out)


@contextmanager
def _mapper(workers: int | None, ray: bool, address: str | None) -> Iterator[Mapper]:
    if not ray and address is None:
        yield processes(workers)
        return
    if workers is not None:
        raise UserError("--workers is for this machine's processes; Ray decides itself how many tasks it runs")
    if address is None:
        from ..ray_token import use_token

        # Ray reads the mode once, when it is imported. Beside a cluster that asks for no token, a driver that does is
        # one that no other node can reach; a cluster elsewhere that asks for one needs RAY_AUTH_MODE=token, as always.
        use_token()
    from ...orchestration.ray_tasks import ray_tasks

    with ray_tasks(address) as mapper:
        yield mapper
