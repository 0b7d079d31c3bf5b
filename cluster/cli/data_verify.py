"""`effnet-cluster data verify`: whether the shards are still what the manifest says."""

from __future__ import annotations

import sys

import click

from ...datasets import verify_shards
from ..home import Home
from .bar import progress_bar
from .console import print_line, stderr_console


@click.command("verify")
@click.argument("dataset")
def command(dataset: str) -> None:
    """Check the shards of DATASET against its manifest.

    DATASET is a folder or an address. Compares sizes and sha256, and lists the shards that are missing or differ.
    Exit code 1 if there are any.
    """
    manifest = Home.default().open_dataset(dataset)
    shards = {shard.name for split in manifest.splits.values() for shard in split.shards}
    with progress_bar(stderr_console(), "verifying", of_bytes=True) as show:
        bad = list(verify_shards(manifest, show))
    for shard in bad:
        print_line(f"{shard.name}: {shard.problem}")
    if bad:
        print_line(f"error: {len(bad):,} of {len(shards):,} shards of {manifest.location} are bad", err=True)
        sys.exit(1)
    print_line(f"{manifest.name}: all {len(shards):,} shards are as the manifest says (digest {manifest.digest})")
