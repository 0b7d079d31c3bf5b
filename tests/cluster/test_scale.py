"""`scale`, and scaled names where `describe` and `submit` take them."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from effnet_cluster.datasets import Manifest
from effnet_cluster.effnet import VARIANTS, complexity
from effnet_cluster.effnet.naming import variant

from .conftest import Cli

Rows = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def rows(cli: Cli) -> Rows:
    """What `scale --json` prints."""

    def call(*arguments: object) -> list[dict[str, Any]]:
        result = cli("scale", *arguments, "--json")
        assert result.exit_code == 0, result.stderr
        found: list[dict[str, Any]] = json.loads(result.stdout)
        return found

    return call


def test_the_json_keeps_the_budget_and_says_what_the_models_are(rows: Rows) -> None:
    found = rows("--max-macs", "2G", "--max-memory", "8GiB", "--max-params", "10M", "--grid", "--classes", 5)
    assert [row["why"] for row in found[:2]] == ["largest φ", "published"]
    assert {row["why"] for row in found[2:]} == {"grid"}
    for row in found:
        config = variant(row["name"], num_classes=5)
        assert (row["width"], row["depth"], row["resolution"]) == (config.width, config.depth, config.resolution)
        assert row["macs"] == complexity(config).macs <= 2e9
        assert row["params"] == complexity(config).params <= 1e7
        memory = row["training_memory"]
        assert memory["total"] == sum(bytes for part, bytes in memory.items() if part != "total") <= 8 * 2**30
        assert row["batch"] == 32


def test_a_bound_is_exact(rows: Rows) -> None:
    macs = complexity(VARIANTS["b2"]).macs
    assert rows("--max-macs", macs)[1]["name"] == "b2"
    assert rows("--max-macs", macs - 1)[1]["name"] == "b1"


def test_a_smaller_batch_leaves_room_for_a_larger_model(rows: Rows) -> None:
    found = [rows("--max-memory", "8GiB", "--batch", batch)[0] for batch in (64, 8)]
    assert found[0]["macs"] < found[1]["macs"]


def test_the_table_shows_the_same_models(cli: Cli, rows: Rows) -> None:
    shown = cli("scale", "--max-macs", "1G", "--grid")
    assert shown.exit_code == 0
    names = re.findall(r"^│ (\S+)", shown.stdout, re.MULTILINE)
    expected = [row["name"] for row in rows("--max-macs", "1G", "--grid")]
    assert names == expected[: len(names)]
    assert len(names) == 14
    assert f"{len(expected) - 14} more" in shown.stderr


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["no budget given", "--max-macs"]),
        (["--max-macs", "2Q"], ["--max-macs: cannot read '2Q'"]),
        (["--max-memory", "8 GiBs"], ["--max-memory: cannot read '8 GiBs'"]),
        (["--max-params", "10MiB"], ["--max-params: cannot read '10MiB'"]),
        (["--max-params", "0"], ["--max-params: '0' is less than 1"]),
        (["--max-macs", "1M"], ["nothing fits: even b0 needs 386M MACs (allowed: 1M)"]),
        (["--max-macs", "1M", "--max-params", "1M"], ["386M MACs (allowed: 1M) and 5.29M parameters (allowed: 1M)"]),
        (["--max-memory", "1GiB"], ["training memory at batch 32 (allowed: 1 GiB)"]),
        (["--max-macs", "1G", "--activation", "swosh"], ["unknown activation 'swosh'"]),
        (["grid", "--flops", "2.03", "--tolerance", "0", "--step", "0.5"], ["no α, β, γ"]),
    ],
)
def test_a_wrong_call_is_one_line(cli: Cli, arguments: list[str], parts: list[str]) -> None:
    result = cli("scale", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert all(part in result.stderr for part in parts), result.stderr


def test_the_base_grid_is_a_list_that_submit_takes(cli: Cli, shards: Manifest) -> None:
    listed = cli("scale", "grid", "--step", "0.1").stdout.strip()
    names = listed.split(",")
    assert len(names) == len(set(names)) > 5
    planned = cli("submit", "--dry-run", "--variants", listed, "--data", shards.root, "--global-batch", 8)
    assert planned.exit_code == 0, planned.stderr
    assert re.findall(r"│ photos-(\S+)-silu-s0", planned.stdout) == names
    assert "b0-w1.1-d1.2-r1.15" in cli("scale", "grid").stdout.strip().split(",")


def test_submit_plans_scaled_models_under_their_canonical_names(cli: Cli, shards: Manifest) -> None:
    variants = "b0,b0-w1.40,b0-d2.0,b0-r1.3,b0-d1.4-w1.2-r1.1,b0.5,b7-b8,b0-w1.0"
    result = cli("submit", "--dry-run", "--variants", variants, "--data", shards.root, "--global-batch", 8)
    assert result.exit_code == 0, result.stderr
    assert re.findall(r"│ photos-(\S+)-silu-s0", result.stdout) == [
        "b0",
        "b0-w1.4",
        "b0-d2",
        "b0-r1.3",
        "b0-w1.2-d1.4-r1.1",
        "b0.5",
        "b7",
        "b8",
    ]


def test_describe_takes_scaled_names_and_shows_what_each_stage_keeps(cli: Cli) -> None:
    result = cli("describe", "b0-w1.40", "--image-size", 224)
    assert result.exit_code == 0
    assert "b0-w1.4: width 1.4, depth 1" in result.stdout
    cells = [line.strip("│ ").split("│")[-1].strip() for line in result.stdout.splitlines() if line.startswith("│")]
    kept = [row.activation_bytes for row in complexity(variant("b0-w1.4")).stages]
    units = {"KiB": 2**10, "MiB": 2**20}
    shown = [float(cell.split()[0]) * units[cell.split()[1]] for cell in cells]
    assert shown == pytest.approx([*kept, sum(kept)], rel=6e-3)


@pytest.mark.parametrize(("name", "message"), [("x9", "unknown variant 'x9'; choose from"), ("b0-q2", "'q2' is no")])
def test_describe_of_a_name_that_means_nothing_is_one_line(cli: Cli, name: str, message: str) -> None:
    result = cli("describe", name)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
