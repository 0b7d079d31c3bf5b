"""A spec file says what flags say: the same words mean the same, whatever YAML 1.1 would make of them."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effnet_cluster.cluster.cli.setting_options import merge_flags
from effnet_cluster.orchestration.errors import UserError
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.training.execution import WorkerRange

from .conftest import Cli

BASE = {"name": "x", "variants": "b0"}


def from_file(text: str | bytes) -> ExperimentSpec:
    """What a spec file comes to, with a name and variants where it gives none."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "spec.yaml")
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return ExperimentSpec.parse(BASE | ExperimentSpec.fields_from_yaml(path))


def from_flags(**flags: str) -> ExperimentSpec:
    """What flags come to, whose values are the text of the command line."""
    return ExperimentSpec.parse(BASE | merge_flags(ExperimentSpec, {}, flags))


# In a file; the flag; its text; what both mean.
SAME: list[tuple[str, str, str, Any]] = [
    ("seeds: 3", "seeds", "3", (3,)),
    ("seeds: 0,1", "seeds", "0,1", (0, 1)),
    ("seeds: 0-4", "seeds", "0-4", (0, 1, 2, 3, 4)),
    ("seeds: 0-2, 7", "seeds", "0-2, 7", (0, 1, 2, 7)),
    ("seeds: [0-2, 7]", "seeds", "0-2,7", (0, 1, 2, 7)),
    ("seeds: [3, 1, 3]", "seeds", "3,1,3", (3, 1)),
    ("seeds:\n- 3\n- '1'\n", "seeds", "3,1", (3, 1)),
    ("seeds: 010", "seeds", "010", (10,)),
    ("seeds: [010, 0100]", "seeds", "010,0100", (10, 100)),
    ("seeds: 5-5", "seeds", "5-5", (5,)),
    ("variants: b0-b3", "variants", "b0-b3", ("b0", "b1", "b2", "b3")),
    ("variants: [b0-b1, b3]", "variants", "b0-b1,b3", ("b0", "b1", "b3")),
    ("activations: silu,relu", "activations", "silu,relu", ("silu", "relu")),
    ("execution: {workers: 2:8}", "workers", "2:8", WorkerRange(2, 8)),
    ("execution:\n  workers: 2:8\n", "workers", "2:8", WorkerRange(2, 8)),
    ("execution: {workers: '2:8'}", "workers", "2:8", WorkerRange(2, 8)),
    ("execution: {workers: 2}", "workers", "2", WorkerRange(2, 2)),
    ("execution: {cache_limit: 1.5 GiB}", "cache_limit", "1.5 GiB", 3 * 2**29),
    ("execution: {cache_limit: 1000000}", "cache_limit", "1000000", 10**6),
    ("execution: {loader_workers: 0}", "loader_workers", "0", 0),
    ("recipe: {epochs: 1_000}", "epochs", "1_000", 1000),
    ("recipe: {epochs: 012}", "epochs", "012", 12),
    ("recipe: {lr: 1e-3}", "lr", "1e-3", 1e-3),
    ("recipe: {lr: .5}", "lr", ".5", 0.5),
    ("recipe: {lr: 1}", "lr", "1", 1.0),
    ("recipe: {augment: off}", "augment", "off", False),
    ("recipe: {augment: no}", "augment", "no", False),
    ("recipe: {augment: False}", "augment", "false", False),
    ("recipe: {augment: on}", "augment", "on", True),
    ("recipe: {augment: true}", "augment", "true", True),
    ("recipe: {policy: none}", "policy", "none", "none"),
    ("recipe: small", "recipe", "small", "small"),
    ("image_size: 64", "image_size", "64", 64),
    ("data: 2024-01-01", "data", "2024-01-01", "2024-01-01"),
    ("data: 12:30:45", "data", "12:30:45", "12:30:45"),
    ("data: 007", "data", "007", "007"),
    ("data: 1.10", "data", "1.10", "1.10"),
    ("data: no", "data", "no", "no"),
    ("data: =", "data", "=", "="),
    ("name: on", "name", "on", "on"),
    ("name: 0x10", "name", "0x10", "0x10"),
    ("name: 0o17", "name", "0o17", "0o17"),
    ("name: 1e3", "name", "1e3", "1e3"),
    ("name: 20240101", "name", "20240101", "20240101"),
]


def value_of(spec: ExperimentSpec, setting: str) -> Any:
    if setting == "recipe":
        return spec.recipe.name
    return next(getattr(part, setting) for part in (spec, spec.recipe, spec.execution) if hasattr(part, setting))


@pytest.mark.parametrize(("text", "setting", "flag", "expected"), SAME, ids=[case[0] for case in SAME])
def test_a_file_and_a_flag_mean_the_same(text: str, setting: str, flag: str, expected: Any) -> None:
    written = from_file(text)
    assert value_of(written, setting) == expected
    assert written == from_flags(**{setting: flag})
    assert from_file(written.to_yaml()) == written


@pytest.mark.parametrize("empty", ["", "~", "null", "Null"])
def test_null_is_what_holds_where_nothing_is_set(empty: str) -> None:
    assert from_file(f"image_size: {empty}\nrecipe: {{clip_grad: {empty}}}\n") == from_file("name: x")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_every_encoding_of_yaml_is_read(encoding: str) -> None:
    assert from_file("data: /daten/Blüten\n".encode(encoding)).data == "/daten/Blüten"


WORDS = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,12}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ODD = st.sampled_from(["010", "0o17", "1_000", "1e-3", ".inf", "on", "no", "null", "~", "", "2:8", "=", "<<", "- a"])


@settings(deadline=None)
@given(name=WORDS, data=TEXTS | ODD, seeds=st.lists(st.integers(0, 2**32 - 1), min_size=1))
def test_what_is_saved_reads_back(name: str, data: str, seeds: list[int]) -> None:
    saved = ExperimentSpec.parse(BASE | {"name": name, "data": data, "seeds": seeds})
    assert from_file(saved.to_yaml()) == saved


REFUSED = [
    ("variants: b0\nseeds: 1\nvariants: b1\n", "in line 3: 'variants' is in line 1 already"),
    ("recipe: {lr: 1, epochs: 2, lr: 3}", "in line 1: 'lr' is in line 1 already"),
    ("recipe:\n  lr: 1\n  'lr': 1\n", "in line 3: 'lr' is in line 2 already"),
    ("? [a, b]\n: 1\n", "in line 1: a setting's name is one word"),
    ("name: !!int 010", "in line 1: could not determine a constructor"),
    ("name: !!python/object:os.system x", "in line 1: could not determine a constructor"),
    ("recipe: &a {lr: 1}\nexecution: {<<: *a}\n", "execution.<<: there is no such setting"),
    ("[" * 5000, "is not YAML"),
    ("execution: {workers: 2:8:9}", "execution.workers: expected a number such as 4, or a range such as 2:4"),
    ("execution: {workers: 8:2}", "execution.workers: 8:2 runs backwards"),
    ("execution: {workers: [2, 8]}", "execution.workers: expected a number"),
    ("seeds: 4-0", "seeds: the range 4-0 runs backwards; write 0-4"),
    ("seeds: 0-4294967295", "seeds: the range 0-4294967295 has 4,294,967,296 seeds, more than 1,000"),
    ("seeds: 0x10", "seeds: '0x10' is no whole number"),
    ("seeds: 1.5", "seeds: '1.5' is no whole number"),
    ("seeds: [[0, 1], 2]", " is no whole number; write numbers such as 0,1 or a range such as 0-4"),
    ("seeds: yes", "seeds: 'yes' is no whole number"),
    ("seeds: 0-b2", "seeds: '0-b2' is no whole number"),
    ("seeds:", "seeds: give at least one seed"),
    ("seeds: ''", "seeds: give at least one seed"),
    ("recipe: {epochs: true}", "recipe.epochs: "),
    ("recipe: {augment: maybe}", "recipe.augment: "),
    ("recipe: {lr: .nan}", "recipe.lr: "),
    ("recipe: {name: [basic]}", "unknown recipe ['basic']"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED, ids=[case[0][:40] for case in REFUSED])
def test_what_means_nothing_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        from_file(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_submit_has_saved_is_one_that_it_reads(
    cli: Cli, saved: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    flags = ("--variants", "b0-b1", "--seeds", "0-2", "--workers", "1:2", "--global-batch", 4, "--name", "0o17")
    first = saved(*flags)
    again = tmp_path / "again.yaml"
    result = cli("submit", "--dry-run", "--spec", tmp_path / "saved.yaml", "--save", again)
    assert result.exit_code == 0, result.stderr
    assert again.read_text() == (tmp_path / "saved.yaml").read_text()
    assert (first["seeds"], first["name"]) == ([0, 1, 2], "0o17")
