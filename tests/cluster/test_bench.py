"""`effnet-cluster bench` on sizes that take seconds: it measures what is installed; the figures are the machine's."""

import json

import pytest
from click.testing import CliRunner

from effnet_cluster.cluster.cli import main

SMALL = ("--image-size", "32", "--batch", "2", "--rounds", "2")


def test_ours_is_measured_against_timm_and_torchvision() -> None:
    pytest.importorskip("timm")
    result = CliRunner().invoke(main, ["bench", "model", "--variants", "b0", *SMALL, "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert [(row["variant"], row["task"]) for row in rows] == [("b0", "train"), ("b0", "infer")]
    for row in rows:
        assert row["rates"].keys() == {"effnet", "timm", "torchvision"}
        assert row["ratios"].keys() == {"timm", "torchvision"}
        for found in row["ratios"].values():
            assert found["rounds"] == 2
            # The median of the rounds' ratios lies between the quartiles; how fast either is depends on the moment.
            assert 0 < found["low"] <= found["median"] <= found["high"]


def test_an_unknown_variant_is_told_in_one_line() -> None:
    result = CliRunner().invoke(main, ["bench", "model", "--variants", "b9", *SMALL])
    assert result.exit_code == 2
    assert result.stderr == "error: unknown variant 'b9'; this benchmark has b0, b1, b2, b3, b4, b5, b6, b7\n"


def test_rounds_end_with_the_time_that_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchvision")
    from effnet_cluster.benchmarks import data

    monkeypatch.setattr(data, "BATCH", 16)
    monkeypatch.setattr(data, "SIZE", 32)
    monkeypatch.setattr(data, "RESIZE", 36)
    result = CliRunner().invoke(main, ["bench", "data", "--images", "64", "--seconds", "0", "--json"])
    assert result.exit_code == 0, result.output
    assert {row["ours"]["rounds"] for row in json.loads(result.stdout)} == {1}
    assert result.stderr == "", "a bar where there is no terminal"
