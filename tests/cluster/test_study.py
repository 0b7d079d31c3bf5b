"""`effnet-cluster study`: a preset under what a person says, planned like any submission."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from effnet_cluster.datasets import Manifest

from .conftest import Cli


def test_a_study_is_a_plan_with_as_many_seeds_as_it_takes(cli: Cli, shards: Manifest, tmp_path: Path) -> None:
    saved = tmp_path / "study.yaml"
    data = ("--data", shards.root, "--global-batch", "4", "--dry-run", "--save", saved)
    result = cli("study", "shortcuts", "--base", "b0-w0.25", "--shortcuts", "residual,none", *data)
    assert result.exit_code == 0, result.stderr
    fields = yaml.safe_load(saved.read_text())
    assert fields["name"].endswith("-shortcuts")
    assert (fields["study"], fields["shortcuts"]) == ("shortcuts", ["residual", "none"])
    assert fields["variants"] == ["b0-w0.25", "b0-w0.25-d1.4", "b0-w0.25-d2"]
    assert fields["seeds"] == list(range(7))  # three comparisons
    assert "42 trials" in result.stdout
    # What was saved is the whole study.
    again = cli("submit", "--spec", saved, "--dry-run")
    assert again.stdout == result.stdout


def test_variants_of_equal_cost_train_longer_where_they_are_smaller(cli: Cli, shards: Manifest, tmp_path: Path) -> None:
    saved = tmp_path / "study.yaml"
    flags = ("--variants", "b0-w0.25,b0", "--fair", "macs", "--epochs", "3", "--seeds", "0", "--global-batch", "4")
    result = cli("study", "family", *flags, "--data", shards.root, "--dry-run", "--save", saved)
    assert result.exit_code == 0, result.stderr
    epochs = yaml.safe_load(saved.read_text())["variant_epochs"]
    assert epochs["b0"] == 3 < epochs["b0-w0.25"]
    assert f"3 to {epochs['b0-w0.25']} epochs" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("scale",), "'scale' is not one of 'scaling'"),
        (("scaling", "--base", "resnet18"), "--base: variant 'resnet18'"),
        (("scaling", "--base", ""), "--base: unknown variant ''"),
        (("scaling", "--study", "family"), "No such option.*--study"),
        (("family", "--variant-epochs", "b0"), "variant_epochs.b0: "),
        (("family", "--variants", "b0", "--variant-epochs", "b1=3"), "b1 is none of the variants b0"),
        (("family", "--variant-epochs", "b0=3", "--sweep", "epochs=2,3"), "two ways to say one thing"),
    ],
)
def test_a_study_that_cannot_be_is_one_line(cli: Cli, arguments: tuple[str, ...], told: str) -> None:
    result = cli("study", *arguments, "--dry-run")
    assert result.exit_code == 2
    assert re.search(told, result.stderr)
    assert result.stderr.count("\n") == 1 or result.stderr.startswith("Usage")
