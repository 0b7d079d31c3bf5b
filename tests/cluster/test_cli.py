"""The command line: help, dry runs, which setting wins, and one line for whatever a user can correct."""

import json
import re
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result

from effnet_cluster.cluster.home import Home
from effnet_cluster.cluster.services import Services
from effnet_cluster.datasets import Manifest
from effnet_cluster.orchestration.report.quantities import count, duration
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.training.execution import Execution
from effnet_cluster.orchestration.training.recipes import Recipe

from .conftest import Cli, keep

VERBS = [
    *(
        "submit",
        "study",
        "up",
        "down",
        "status",
        "list",
        "show",
        "logs",
        "stop",
        "resume",
        "extend",
        "compare",
        "report",
        "verify",
        "data",
        "describe",
    ),
    *("predict", "export", "scale", "bench"),
]


def contents(home: Home) -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in home.root.rglob("*")}


def is_one_line(result: Result, code: int, *parts: str) -> None:
    """Assert that a call ended as a user's mistake should."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert result.stderr.endswith("\n")
    for part in parts:
        assert part in result.stderr


@pytest.fixture
def web_server() -> Iterator[Callable[[int, bytes], str]]:
    """Start a real web server that is neither MLflow nor Ray: it answers everything alike."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int, body: bytes) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


# Help, version, describe


@pytest.mark.parametrize("arguments", [[], *([verb] for verb in VERBS), ["data", "prepare"]], ids=" ".join)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_verb_explains_itself(cli: Cli, home: Home, arguments: list[str], flag: str) -> None:
    result = cli(*arguments, flag)
    assert result.exit_code == 0
    assert result.stdout.startswith(" ".join(["Usage: effnet-cluster", *arguments]))
    explanation = result.stdout.split("\n\n")[1].strip()
    assert len(explanation) > 15
    assert not home.root.exists()


def test_the_group_lists_exactly_its_verbs(cli: Cli) -> None:
    listed = cli("-h").stdout.partition("Commands:\n")[2].splitlines()
    assert {line.split()[0] for line in listed if line.startswith("  ") and line[2] != " "} == set(VERBS)


def test_the_version_is_the_packages(cli: Cli) -> None:
    assert cli("--version").stdout.split()[-1] == version("effnet-cluster")


def test_an_unknown_verb_or_option_is_a_wrong_call(cli: Cli) -> None:
    for arguments in (["train"], ["submit", "--varaints", "b0"], ["describe"], ["data", "mix"]):
        result = cli(*arguments)
        assert result.exit_code == 2
        assert "Error" in result.stderr


def test_importing_the_command_line_loads_no_engine() -> None:
    code = (
        "import sys, click, importlib\n"
        "from effnet_cluster.cluster.cli import main\n"
        "context = click.Context(main)\n"
        "for name in main.list_commands(context): main.get_command(context, name)\n"
        "print(*{m.partition('.')[0] for m in sys.modules} & {'torch', 'ray', 'mlflow', 'webdataset', 'sklearn'})"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["b0"], "5,288,548"),
        (["b7"], "66,347,960"),
        (["b0", "--classes", "5"], "4,013,953"),
        (["resnet18"], "11,689,512"),
        (["DenseNet169", "--image-size", "64"], "14,149,480"),
    ],
)
def test_describe_shows_the_published_number_of_parameters(cli: Cli, arguments: list[str], expected: str) -> None:
    result = cli("describe", *arguments)
    assert result.exit_code == 0
    assert expected in result.stdout


def test_describe_shows_the_papers_table_1(cli: Cli) -> None:
    rows = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in cli("describe", "b0").stdout.splitlines()
        if line.startswith("│")
    ]
    found = [(row[0], row[2], int(row[3]), int(row[4])) for row in rows[:9]]
    # Stage, resolution, channels and layers as printed in Tan & Le 2019.
    resolutions, channels = [224, 112, 112, 56, 28, 14, 14, 7, 7], [32, 16, 24, 40, 80, 112, 192, 320, 1280]
    layers = [1, 1, 2, 2, 3, 3, 4, 1, 1]
    assert found == [(str(n + 1), f"{resolutions[n]}×{resolutions[n]}", channels[n], layers[n]) for n in range(9)]


# Data


def test_a_folder_and_an_archive_of_it_are_prepared_alike_and_can_be_planned(
    cli: Cli, photos: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "photos.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(photos, "photos")
    for source, out in ((photos, tmp_path / "a"), (archive, tmp_path / "b")):
        result = cli("data", "prepare", source, out)
        assert (result.exit_code, result.stdout) == (
            0,
            f"photos: 8 train, 2 val images of 2 classes (china, flower) in {out}\n",
        )
        planned = cli("submit", "--dry-run", "--variants", "b0", "--data", out, "--global-batch", 4)
        assert planned.exit_code == 0, planned.stderr
        assert "photos-b0-silu-s0" in planned.stdout
        assert "8 + 2 images of 2 classes" in " ".join(planned.stdout.split())
        assert "2 × 4" in planned.stdout
    assert Manifest.load(tmp_path / "a").digest == Manifest.load(tmp_path / "b").digest


def test_preparing_twice_or_nothing_is_refused_and_leaves_no_trace(cli: Cli, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").touch()
    is_one_line(cli("data", "prepare", photos, out), 2, str(out), "not empty")
    is_one_line(cli("data", "prepare", tmp_path / "missing", tmp_path / "new"), 2, "missing: no such file")
    is_one_line(cli("data", "prepare", photos, tmp_path / "new", "--val-fraction", "1.5"), 2)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == ["mine"]


# Dry runs, and which setting wins


def test_a_flag_takes_a_list_or_a_range_which_a_file_holds_as_the_sweep(saved: Callable[..., dict[str, Any]]) -> None:
    lists = (
        "--lr",
        "1e-3,3e-3",
        "--optimizer",
        "sgd, adamw",
        "--sweep",
        "weight-decay=0,.1",
        "--sweep",
        "augment=on,off",
    )
    search = saved("--variants", "b0", "--global-batch", 4, *lists)["search"]
    assert search["sweep"] == {
        "optimizer": ["sgd", "adamw"],
        "lr": [0.001, 0.003],
        "weight_decay": [0.0, 0.1],
        "augment": [True, False],
    }
    ranges = ("--search", "random", "--trials", 3, "--lr", "1e-4..1e-2:log", "--dropout", "0..0.5")
    environment = {
        "EFFNET_CLUSTER_SUBMIT_SWEEP": "epochs=3..5 lr_per=4,8",
        "EFFNET_CLUSTER_SUBMIT_OBJECTIVES": "top1,macs",
    }
    search = saved("--variants", "b0", "--global-batch", 4, *ranges, **environment)["search"]
    assert search == {
        "method": "random",
        "trials": 3,
        "sweep": {"epochs": "3..5", "lr": "0.0001..0.01:log", "lr_per": [4, 8], "dropout": "0..0.5"},
        "objectives": ["top1", "macs"],
        "search_seed": None,
    }


def test_a_flag_wins_over_what_a_file_sweeps(saved: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(
        "variants: b0\nrecipe: {global_batch: 4, ema: [0, 0.9]}\n"
        "search: {sweep: {lr: [1, 2], epochs: 3..5, eps: [1, 2]}, method: random, trials: 4}\n"
    )
    flags = ("--lr", 5, "--sweep", "ema=0.5,0.6", "--epochs", "7,8", "--sweep", "dropout=0,0.1")
    found = saved("--spec", file, *flags)
    assert found["recipe"]["lr"] == 5
    expected = {"epochs": [7, 8], "eps": [1.0, 2.0], "ema": [0.5, 0.6], "dropout": [0.0, 0.1]}
    assert found["search"]["sweep"] == expected


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--lr", "1e-3,x"), "recipe.lr: Input should be a valid number"),
        (("--lr", "1..2"), "search: lr=1..2 is a range, which a grid cannot walk through; list its values"),
        (("--sweep", "lr"), "sweep: expected FIELD=VALUES, such as lr=1e-3,3e-3 (got 'lr')"),
        (("--sweep", "lr=1,2", "--lr", 3), "lr is given twice, by its own flag and by --sweep; say it once"),
        (("--sweep", "lr=1,2", "--sweep", "lr=3"), "sweep: lr is there twice"),
        (("--optimizer", "sgd,best"), "'best' is not one of 'adamw', 'sgd', 'rmsprop'"),
        (("--recipe", "paper,basic"), "'paper,basic' is not one of"),
        (("--search", "optuna"), "search: --search optuna needs a number of trials, such as --trials 20"),
    ],
)
def test_a_sweep_that_means_nothing_is_one_line(cli: Cli, home: Home, flags: tuple[object, ...], told: str) -> None:
    result = cli("submit", "--variants", "b0", *flags)
    assert (result.exit_code, result.stdout) == (2, "")
    assert told in result.stderr
    assert not home.root.exists()


def test_flags_win_over_the_environment_over_the_file_over_the_defaults(
    saved: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(
        "variants: b1\nexecution: {workers: 2}\nrecipe: {epochs: 3, global_batch: 8, lr: 0.5}\nseeds: [7]\n"
    )
    environment = {"EFFNET_CLUSTER_SUBMIT_EPOCHS": "4", "EFFNET_CLUSTER_SUBMIT_GLOBAL_BATCH": "4"}
    found = saved("--spec", file, "--epochs", 5, **environment)
    assert found["recipe"]["epochs"] == 5  # of 5, 4 and 3
    assert found["recipe"]["global_batch"] == 4  # of 4 and 8
    assert found["recipe"]["lr"] == 0.5  # of the file and the default
    assert found["recipe"]["label_smoothing"] == 0.1  # the default
    assert (found["variants"], found["execution"]["workers"], found["seeds"]) == (["b1"], 2, [7])
    without_flag = saved("--spec", file, **environment)
    assert without_flag["recipe"]["epochs"] == 4
    assert saved("--spec", file)["recipe"]["epochs"] == 3
    assert saved("--variants", "b0", "--global-batch", 8)["recipe"]["epochs"] == 10


def test_a_switch_off_wins_over_a_file_that_says_on_and_the_other_way_round(
    saved: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text("variants: b0\nrecipe: {augment: true, sync_bn: false, global_batch: 8}\n")
    recipe = saved("--spec", file, "--no-augment", "--sync-bn")["recipe"]
    assert (recipe["augment"], recipe["sync_bn"]) == (False, True)
    recipe = saved("--spec", file)["recipe"]
    assert (recipe["augment"], recipe["sync_bn"]) == (True, False)


def test_a_recipe_is_a_set_of_defaults_that_flags_and_files_override(
    saved: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text("variants: b0\nrecipe: {name: paper, global_batch: 8, ema: 0.5}\n")
    recipe = saved("--spec", file, "--epochs", 3)["recipe"]
    assert (recipe["name"], recipe["optimizer"], recipe["global_batch"], recipe["ema"]) == ("paper", "rmsprop", 8, 0.5)
    assert recipe["epochs"] == 3
    other = saved("--spec", file, "--recipe", "small", "--global-batch", 4)["recipe"]
    assert (other["name"], other["optimizer"], other["global_batch"]) == ("small", "adamw", 4)
    file.write_text("variants: b0\nrecipe: small\n")
    assert saved("--spec", file, "--global-batch", 8)["recipe"]["ema"] == other["ema"] == 0.99


def test_workers_are_a_number_or_a_range(cli: Cli, saved: Callable[..., dict[str, Any]], shards: Manifest) -> None:
    found = saved("--variants", "b0", "--global-batch", 4, "--workers", "1:2")
    assert found["execution"]["workers"] == "1:2"
    again = ["submit", "--dry-run", "--data", shards.root, "--variants", "b0", "--workers"]
    is_one_line(cli(*again, "2:1"), 2, "workers: 2:1 runs backwards")
    is_one_line(cli(*again, "3:3", "--global-batch", 4), 2, "global batch 4 cannot be shared by 3 workers")
    is_one_line(cli(*again, "5:7", "--global-batch", 4), 2, "global batch 4", "any number of workers from 5 to 7")
    is_one_line(cli(*again, "two"), 2, "workers", "a number such as 4")


def test_what_was_saved_plans_the_same_again(cli: Cli, saved: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    flags = ["--variants", "b0-b1", "--activations", "relu,silu", "--seeds", "3, 1", "--global-batch", "4"]
    first = saved(*flags, "--image-size", 40, "--dropout", 0.3, "--name", "mine", "--max-failures", 0)
    assert (first["seeds"], first["image_size"], first["name"], first["execution"]["max_failures"]) == (
        [3, 1],
        40,
        "mine",
        0,
    )
    copy = tmp_path / "copy.yaml"
    copy.write_text(yaml.safe_dump(first))
    assert saved("--spec", copy) == first
    assert saved("--spec", copy, "--name", "other") == first | {"name": "other"}


def test_every_setting_of_the_specification_has_a_flag(cli: Cli) -> None:
    text = cli("submit", "--help-all").stdout
    fields = ExperimentSpec.model_fields.keys() | Recipe.model_fields.keys() | Execution.model_fields.keys()
    flags = set(re.findall(r"--([a-z-]+)", text))
    assert {field.replace("_", "-") for field in fields} - flags == {"execution", "scheduling"}  # which are sections


def test_a_dry_run_starts_nothing_and_writes_nothing_in_the_home(cli: Cli, home: Home, shards: Manifest) -> None:
    result = cli("submit", "--dry-run", "--variants", "b0-b3", "--data", shards.root, "--global-batch", 8)
    assert result.exit_code == 0
    assert re.findall(r"│ (photos-\S+)", result.stdout) == [f"photos-b{n}-silu-s0" for n in range(4)]
    assert not home.root.exists()


def test_a_dry_run_of_the_embedded_digits_only_fills_the_cache(cli: Cli, home: Home) -> None:
    result = cli("submit", "--dry-run", "--variants", "b0")
    assert result.exit_code == 0
    assert "1,438 + 359 images of 10 classes" in " ".join(result.stdout.split())
    assert [path.name for path in home.root.iterdir()] == ["cache"]


def test_a_name_is_made_from_data_and_variants_and_never_taken_twice(
    saved: Callable[..., dict[str, Any]], home: Home
) -> None:
    flags = ["--variants", "b0,b2", "--global-batch", 4]
    first = saved(*flags)["name"]
    assert first == "photos-b0-b2"
    keep(home, first)
    assert saved(*flags)["name"] == "photos-b0-b2-2"


def test_a_data_set_of_any_name_gets_a_valid_experiment_name(cli: Cli, photos: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("Flower Photos (2)", "ünïcode", "_x", "a/b", "x" * 100)):
        out = tmp_path / str(number)
        assert cli("data", "prepare", photos, out, "--name", name).exit_code == 0
        result = cli("submit", "--dry-run", "--variants", "b0", "--data", out, "--global-batch", 4)
        assert result.exit_code == 0, (name, result.stderr)


# Mistakes


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--variants", "x9"], ["unknown variant 'x9'; choose from b0, "]),
        (["--variants", "b3-b1"], ["runs backwards"]),
        ([], ["no variants given", "--variants"]),
        (["--variants", ""], ["no variants given"]),
        (["--variants", "b0", "--activations", "swosh"], ["unknown activation 'swosh'", "silu"]),
        (["--variants", "b0", "--shortcuts", "x"], ["unknown shortcut 'x'", "residual"]),
        (["--variants", "b0", "--seeds", "1,x"], ["seeds"]),
        (["--variants", "b0", "--seeds", "-1"], ["seeds"]),
        (["--variants", "b0", "--seeds", ""], ["seeds"]),
        (["--variants", "b0", "--name", "Bad Name"], ["name: ", "'Bad Name'"]),
        (["--variants", "b0", "--name", "../x"], ["name: "]),
        (["--variants", "b0", "--workers", "0"], ["workers"]),
        (["--variants", "b0", "--epochs", "0"], ["epochs"]),
        (["--variants", "b0", "--lr", "nan"], ["lr"]),
        (["--variants", "b0", "--lr", "inf"], ["lr"]),
        (["--variants", "b0", "--dropout", "1.5"], ["dropout"]),
        (["--variants", "b0", "--global-batch", "8", "--workers", "3"], ["global batch 8", "3 workers"]),
        (["--variants", "b0", "--global-batch", "9"], ["global batch 9", "8 training samples"]),
        (["--variants", "b0", "--global-batch", "8", "--dry-run", "--save", "/nowhere/x.yaml"], ["/nowhere/x.yaml"]),
        (["--spec", "/nowhere/x.yaml"], ["/nowhere/x.yaml"]),
    ],
)
def test_a_wrong_call_of_submit_is_one_line_and_leaves_nothing(
    cli: Cli, home: Home, shards: Manifest, flags: list[str], parts: list[str]
) -> None:
    is_one_line(cli("submit", "--data", shards.root, *flags), 2, *parts)
    assert not home.root.exists()


@pytest.mark.parametrize(
    "content",
    [
        "variants: [b0",
        "- b0",
        "variants: b0\nepochz: 3\n",
        "variants: b0\nrecipe: {epochs: none}\n",
        "variants: b0\nrecipe: 5\n",
        "variants: b0\nrecipe: fast\n",
        "variants: 5\n",
        "variants: {b0: 1}\nname: 3\n",
        "variants: b0\n1: 2\n",
        "variants: b0\ndata: 3\n",
        "\x00",
    ],
)
def test_a_wrong_file_is_one_line_and_leaves_nothing(cli: Cli, home: Home, tmp_path: Path, content: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(content)
    is_one_line(cli("submit", "--spec", path, "--lr", 0.1, "--dry-run"), 2)
    assert not home.root.exists()


def test_data_that_are_missing_or_not_prepared_are_told_with_the_command(
    cli: Cli, home: Home, photos: Path, tmp_path: Path
) -> None:
    submit = ["submit", "--variants", "b0", "--data"]
    is_one_line(cli(*submit, tmp_path / "missing"), 2, "no such folder", "effnet-cluster data prepare")
    is_one_line(cli(*submit, photos), 2, "a folder of images", f"effnet-cluster data prepare {photos} ")
    (tmp_path / "empty").mkdir()
    is_one_line(cli(*submit, tmp_path / "empty"), 2, "not a prepared dataset")
    is_one_line(cli(*submit, "ftp://host/x"), 2, "ftp://host/x")
    is_one_line(cli(*submit, ""), 2)
    assert not home.root.exists()


@pytest.mark.parametrize("arguments", [["b0", "--activation", "x"], ["b0", "--shortcut", "x"]])
def test_describe_tells_what_is_unknown(cli: Cli, arguments: list[str]) -> None:
    is_one_line(cli("describe", *arguments), 2, "unknown", "known: ")


@pytest.fixture
def submit(cli: Cli, shards: Manifest) -> Callable[..., Result]:
    """A submit in which only the engines that a test names are wrong."""

    def call(*flags: object) -> Result:
        return cli("submit", "--variants", "b0", "--data", shards.root, "--global-batch", 4, "--detach", *flags)

    return call


def error_line(result: Result) -> str:
    """The last line of stderr; the plan stands above it where the call itself was right."""
    assert "Traceback" not in result.stderr
    lines = result.stderr.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    assert result.stdout == ""
    return lines[-1]


def test_engines_that_do_not_answer_are_told_with_address_and_leave_nothing(
    submit: Callable[..., Result], home: Home, closed_port: int
) -> None:
    dead = f"http://127.0.0.1:{closed_port}"
    for flags in (["--address", dead], ["--tracking-uri", dead], ["--address", dead, "--tracking-uri", dead]):
        result = submit(*flags)
        assert result.exit_code == 1
        assert dead in error_line(result)
    assert not home.root.exists()


def test_addresses_that_are_none_are_told(submit: Callable[..., Result], home: Home) -> None:
    for flags in (
        ["--address", "head:8265"],
        ["--tracking-uri", "sqlite:///mlflow.db"],
        ["--tracking-uri", "http://127.0.0.1:99999"],
        ["--address", "http://127.0.0.1:99999"],
        ["--tracking-uri", "http://"],
        ["--address", "http://"],
        ["--tracking-uri", "http://no-such-host.invalid:5000"],
        ["--address", "http://no-such-host.invalid:8265"],
    ):
        result = submit(*flags)
        assert result.exit_code in (1, 2), flags
        assert flags[1] in error_line(result)
    assert not home.root.exists()


@pytest.mark.parametrize(("status", "body"), [(404, b"no"), (500, b""), (200, b"<html>"), (200, b"{}")])
@pytest.mark.parametrize("flag", ["--address", "--tracking-uri"])
def test_another_web_server_is_no_engine(
    submit: Callable[..., Result],
    home: Home,
    web_server: Callable[[int, bytes], str],
    flag: str,
    status: int,
    body: bytes,
) -> None:
    address = web_server(status, body)
    result = submit(flag, address)
    try:
        assert result.exit_code == 1
        assert address in error_line(result)
        assert not home.root.exists()
    finally:
        if home.root.exists():
            cleanup(home)


def cleanup(home: Home) -> None:
    """Where the test above fails, embedded services may have been started."""
    for name in ("ray", "mlflow"):
        Services(home).stop(name)


@pytest.mark.parametrize("flag", ["--dashboard-port", "--mlflow-port"])
def test_a_port_that_is_none_is_a_wrong_call(cli: Cli, home: Home, flag: str) -> None:
    for port in ("0", "65536", "x"):
        result = cli("up", flag, port)
        assert result.exit_code == 2
        assert flag in result.stderr
    assert not home.root.exists()


def test_a_name_that_is_taken_is_told_before_anything_starts(submit: Callable[..., Result], home: Home) -> None:
    keep(home, "mine")
    before = contents(home)
    is_one_line(submit("--name", "mine"), 2, "experiment 'mine' exists", "effnet-cluster resume mine")
    assert contents(home) == before


@pytest.mark.parametrize("verb", ["logs", "stop", "resume", "compare", "report"])
def test_an_unknown_experiment_is_told_with_those_that_exist(cli: Cli, home: Home, verb: str) -> None:
    is_one_line(cli(verb, "x"), 2, "no experiment 'x'; submit one first")
    assert not home.root.exists()
    keep(home, "flowers")
    before = contents(home)
    is_one_line(cli(verb, "x"), 2, "no experiment 'x'; the latest are flowers")
    is_one_line(cli(verb, "../experiments/flowers/.."), 2, "no experiment")
    assert contents(home) == before


@pytest.mark.parametrize("verb", ["logs", "stop", "resume", "compare", "report"])
def test_an_experiment_whose_engines_are_gone_is_told_in_one_line(
    cli: Cli, home: Home, verb: str, closed_port: int
) -> None:
    dead = f"http://127.0.0.1:{closed_port}"
    keep(home, "flowers", dead, dead, data_digest=home.open_dataset("digits").digest)
    before = contents(home)
    is_one_line(cli(verb, "flowers"), 1, dead)
    assert contents(home) == before


# What only looks, creates nothing


def test_looking_at_an_empty_home_creates_nothing(cli: Cli, home: Home) -> None:
    assert json.loads(cli("status", "--json").stdout) == {}
    assert json.loads(cli("list", "--json").stdout) == []
    assert cli("status").stdout.count("not running") == 2
    assert cli("list").exit_code == 0
    assert not home.root.exists()


def test_list_shows_an_experiment_whose_cluster_is_gone(cli: Cli, home: Home, closed_port: int) -> None:
    keep(home, "flowers", f"http://127.0.0.1:{closed_port}")
    (row,) = json.loads(cli("list", "--json").stdout)
    assert (row["experiment"], row["state"], row["trials"]) == ("flowers", "unknown", 1)
    assert "flowers" in cli("list").stdout


def test_show_tells_the_plan_of_an_experiment_whose_engines_are_gone(cli: Cli, home: Home, closed_port: int) -> None:
    gone = f"http://127.0.0.1:{closed_port}"
    keep(home, "flowers", gone, gone)
    before = contents(home)
    result = cli("show", "flowers", "--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["experiment"], found["state"], found["trials"]) == (0, "flowers", None, [])
    assert len(found["unknown"]) == result.stderr.count("warning: ") == 2
    assert "flowers: unknown" in cli("show", "flowers").stdout
    assert contents(home) == before
    is_one_line(cli("show", "tulips"), 2, "no experiment 'tulips'")


def test_extend_refuses_a_wrong_call_before_anything_is_asked(cli: Cli, home: Home, closed_port: int) -> None:
    gone = f"http://127.0.0.1:{closed_port}"
    keep(home, "flowers", gone, gone)
    before = contents(home)
    is_one_line(cli("extend", "flowers"), 2, "--epochs")
    is_one_line(cli("extend", "flowers", "--epochs", 3), 2, "--epochs 3: the trials of 'flowers' have 10")
    is_one_line(cli("extend", "flowers", "--variants", "b0"), 2, "--variants b0: 'flowers' has that already")
    assert contents(home) == before


# Preflight of what this machine alone can say; the nodes' part is in tests/orchestration/test_preflight.py.


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--workers", 3], "cannot be shared by 3 workers"),
        (["--global-batch", 4000], "is larger than the 8 training samples"),
        (["--workers", 4096, "--global-batch", 4096], "4096"),
        (["--image-size", 100_000, "--global-batch", 2], "100000 px needs at least"),
        (["--workers", 4, "--cpus-per-worker", 4096, "--global-batch", 4], "use fewer workers or cores"),
    ],
    ids=["batch", "samples", "workers", "memory", "cores"],
)
@pytest.mark.parametrize("check", [["--check"], ["--detach"]], ids=["check", "submit"])
def test_what_cannot_run_is_refused_before_anything_starts(
    cli: Cli, home: Home, shards: Manifest, flags: list[Any], part: str, check: list[str]
) -> None:
    is_one_line(cli("submit", "--variants", "b0", "--data", shards.root, *flags, *check), 2, part)
    assert not home.root.exists()


def test_check_starts_nothing_and_says_what_is_left_to_be_checked(cli: Cli, home: Home, shards: Manifest) -> None:
    result = cli("submit", "--variants", "b0", "--data", shards.root, "--global-batch", 8, "--workers", 2, "--check")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.endswith("can run; the local Ray will be checked when it begins\n")
    assert not home.root.exists()
    flags = ("--variants", "b0", "--data", shards.root, "--global-batch", 8)
    result = cli("submit", *flags, "--workers", "1:4", "--check")
    assert result.exit_code == 0
    assert "validation has 2 images for 4 workers" in result.stderr
    # Of another cluster, this machine knows the plan, and whether it answers.
    result = cli("submit", *flags, "--address", "http://127.0.0.1:1", "--storage", "s3://bucket", "--check")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "http://127.0.0.1:1" in result.stderr
    assert not home.root.exists()


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1k"), (5_288_548, "5.29M"), (37_000_000_000, "37G"), (66_347_960, "66.3M")],
)
def test_counts_are_short(number: int, text: str) -> None:
    assert count(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.4, "59s"), (59.6, "1m00s"), (75, "1m15s"), (3600, "1h00m"), (90061, "25h01m")]
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    "arguments",
    [
        ("submit", "--variants", "b0", "--data", "x" * 5000),
        ("data", "inspect", "x" * 5000),
        ("data", "verify", "x" * 5000),
        ("data", "index", "x" * 5000),
        ("data", "prepare", "x" * 5000, "out"),
        ("logs", "x" * 5000),
        ("resume", "x" * 5000),
    ],
    ids=lambda arguments: " ".join(arguments)[:20],
)
def test_what_the_system_refuses_is_one_line_too(cli: Cli, arguments: tuple[str, ...]) -> None:
    result = cli(*arguments)
    is_one_line(result, 1, "File name too long")
    assert len(result.stderr) < 400


@pytest.mark.parametrize("address", ["http://[abc/x", "[::1]", "http://", "http://x:0", "x" * 3000])
def test_an_address_that_is_none_is_one_line_also_without_a_storage(cli: Cli, shards: Manifest, address: str) -> None:
    is_one_line(cli("submit", "--data", shards.root, "--variants", "b0", "--address", address), 2, "--address")


def test_another_machine_needs_a_storage_that_it_sees(cli: Cli, shards: Manifest) -> None:
    result = cli("submit", "--data", shards.root, "--variants", "b0", "--address", "http://head-node:8265")
    is_one_line(result, 2, "--address http://head-node:8265 needs --storage")
