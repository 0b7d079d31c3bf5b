"""One setting is one edit: from one field come a flag, a variable, a key in files, a parameter and a row of docs."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from pydantic import BaseModel, ByteSize, Field

from effnet_cluster.cluster.cli import main
from effnet_cluster.cluster.cli.setting_options import flag_of, merge_flags, setting_options
from effnet_cluster.cluster.cli.settings_page import settings_page
from effnet_cluster.cluster.home import Home
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.training.execution import Execution, WorkerRange
from effnet_cluster.orchestration.training.recipes import Recipe
from effnet_cluster.orchestration.training.settings import Shown, params_of, settings_of

from .conftest import Cli, keep

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"

# A new option is an edit here: whoever makes one should mean it.
EXECUTION_OPTIONS = [
    *("--cache-limit", "--checkpoint-steps", "--controller", "--cpus-per-worker", "--deterministic", "--device"),
    *("--fork-workers", "--no-fork-workers", "--gradient-norms", "--no-gradient-norms"),
    *("--loader-workers", "--no-deterministic"),
    *("--max-concurrent", "--max-failures", "--on-corrupt", "--workers"),
]
RESUME_OPTIONS = sorted([*EXECUTION_OPTIONS, "--detach", "--help", "-h"])
SUBMIT_OPTIONS = sorted(
    [
        *EXECUTION_OPTIONS,
        *("--activations", "--address", "--alpha", "--augment", "--backbone-lr", "--bn-momentum"),
        *("--budget-hours", "--check", "--no-probe", "--price-per-hour", "--probe"),
        *("--exchanged", "--min-share", "--reduction", "--scheduler"),
        *(
            "--checkpoint-activations",
            "--clip-grad",
            "--compile",
            "--compile-mode",
            "--cutmix",
            "--dashboard-port",
            "--data",
        ),
        *("--decay-epochs", "--decay-rate", "--detach", "--dist-bn", "--dropout", "--dry-run", "--ema", "--epochs"),
        *("--eps", "--erasing", "--freeze-backbone", "--global-batch", "--help", "--help-all", "--image-size"),
        *("--label-smoothing", "--lr", "--lr-per", "--micro-batch", "--min-crop", "--mixup", "--mlflow-port"),
        *("--momentum", "--name", "--no-augment", "--no-checkpoint-activations", "--no-compile"),
        *("--no-freeze-backbone", "--no-pretrained", "--no-sync-bn", "--objectives", "--optimizer", "--policy"),
        *("--precision", "--pretrained", "--recipe", "--save", "--schedule", "--search", "--search-seed", "--seeds"),
        *("--shortcuts", "--shuffle-block", "--spec", "--stochastic-depth", "--storage", "--sweep", "--sync-bn"),
        *("--study", "--tail", "--tracking-uri", "--trials", "--upsample", "--variants", "--variant-epochs"),
        *("--warmup-epochs", "--weight-decay", "--weights", "-h"),
    ]
)


class WiderRecipe(Recipe):
    sharpness: Annotated[float | None, Field(ge=0, description="sharpness of the images")] = None
    mirror: Annotated[bool, Field(description="images seen in a mirror")] = True


class WiderExecution(Execution):
    rack: Annotated[Literal["left", "right"], Field(description="where the nodes stand"), Shown(common=True)] = "left"
    scratch: Annotated[ByteSize, Field(description="disk for scratch"), Shown(metavar="BYTES")] = ByteSize(5)


class WiderSpec(ExperimentSpec):
    recipe: WiderRecipe = WiderRecipe()
    execution: WiderExecution = WiderExecution()


def wider_command() -> click.Command:
    """A command that prints the specification that its flags come to."""

    @click.command("wider", context_settings={"auto_envvar_prefix": "WIDER"})
    @setting_options(WiderSpec)
    def command(**flags: Any) -> None:
        click.echo(WiderSpec.parse(merge_flags(WiderSpec, {"name": "x", "variants": "b0"}, flags)).to_yaml())

    return command


def test_a_new_field_is_a_flag_a_variable_a_key_a_parameter_and_a_row_of_docs(tmp_path: Path) -> None:
    run = CliRunner(env={"WIDER_RACK": "right"}).invoke(
        wider_command(), ["--sharpness", "0.5", "--no-mirror", "--scratch", "2KiB"], catch_exceptions=False
    )
    file = tmp_path / "spec.yaml"
    file.write_text(run.stdout)
    spec = WiderSpec.parse(WiderSpec.fields_from_yaml(file))
    assert (spec.recipe.sharpness, spec.recipe.mirror) == (0.5, False)
    assert (spec.execution.rack, spec.execution.scratch) == ("right", 2048)
    new = {"sharpness": 0.5, "mirror": False, "rack": "right", "scratch": 2048}
    assert params_of(spec).items() >= new.items()
    assert params_of(spec).keys() - params_of(ExperimentSpec.parse({"name": "x", "variants": "b0"})) == new.keys()
    page = settings_page(WiderSpec)
    for row in (
        "| `--sharpness FLOAT` | `recipe.sharpness` |  | Sharpness of the images. |",
        "| `--mirror/--no-mirror` | `recipe.mirror` | on | Images seen in a mirror. |",
        r"| `--rack [left\|right]` | `execution.rack` | left | Where the nodes stand. |",
        "| `--scratch BYTES` | `execution.scratch` | 5 | Disk for scratch. |",
    ):
        assert row in page.splitlines()
    text = " ".join(CliRunner().invoke(wider_command(), ["--help"], terminal_width=100).stdout.split())
    assert "--rack [left|right] Where the nodes stand. [default: left]" in text


def test_a_field_without_a_description_is_refused() -> None:
    class Bare(BaseModel):
        size: int = 3

    with pytest.raises(TypeError, match=r"^Bare\.size has no description$"):
        settings_of(Bare)


def test_no_two_settings_share_a_name_or_a_flag() -> None:
    settings = settings_of(ExperimentSpec)
    assert len({setting.name for setting in settings}) == len(settings)
    assert len({flag for setting in settings for flag in flag_of(setting).split("/")}) == len(settings) + sum(
        setting.switch for setting in settings
    )


def options(verb: str) -> list[str]:
    command = main.get_command(click.Context(main), verb)
    assert command is not None
    context = click.Context(command, help_option_names=["-h", "--help"])
    parameters = [p for p in command.get_params(context) if isinstance(p, click.Option)]
    return sorted(name for p in parameters for name in (*p.opts, *p.secondary_opts))


@pytest.mark.parametrize(("verb", "expected"), [("submit", SUBMIT_OPTIONS), ("resume", RESUME_OPTIONS)])
def test_the_options_are_these(verb: str, expected: list[str]) -> None:
    assert options(verb) == expected


def test_the_page_in_the_docs_is_what_the_fields_say() -> None:
    assert PAGE.read_text() == settings_page(), "run `make docs`"


@pytest.mark.parametrize("width", [80, 100])
def test_the_first_page_of_help_fits_a_screen_and_the_second_holds_every_option(cli: Cli, width: int) -> None:
    first = cli("submit", "-h", COLUMNS=str(width)).stdout
    lines = first.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= width
    assert re.search(r"--help-all +\w", first)
    sections = ["Data:", "Model:", "Recipe:", "Execution:", "Engines:", "Other options:"]
    assert [line for line in lines if line in sections] == sections
    shown = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", first))
    assert {"--variants", "--data", "--epochs", "--workers", "--dry-run"} <= shown
    assert not {"--dist-bn", "--controller"} & shown
    second = cli("submit", "--help-all", COLUMNS=str(width)).stdout
    sections.insert(3, "Search:")
    assert [line for line in second.splitlines() if line in sections] == sections
    assert max(map(len, second.splitlines())) <= width
    assert set(SUBMIT_OPTIONS) <= set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", second))
    assert "\x1b" not in first + second
    assert cli("submit", "-h", COLUMNS=str(width)).stdout == first


def test_completion_knows_also_what_the_first_page_leaves_out() -> None:
    completion = ShellComplete(main, {}, "effnet-cluster", "_EFFNET_CLUSTER_COMPLETE")
    found = {item.value for item in completion.get_completions(["submit"], "--")}
    assert found == {option for option in SUBMIT_OPTIONS if option.startswith("--")}
    assert [item.value for item in completion.get_completions(["submit", "--optimizer"], "a")] == ["adamw"]


def test_what_a_person_writes_in_a_flag_or_a_variable_is_what_a_file_holds(
    saved: Callable[..., dict[str, Any]],
) -> None:
    flags = ["--variants", "b0", "--global-batch", 4, "--cache-limit", "1.5GiB"]
    execution = saved(*flags, EFFNET_CLUSTER_SUBMIT_WORKERS="2", EFFNET_CLUSTER_SUBMIT_CACHE_LIMIT="1")["execution"]
    assert (execution["workers"], execution["cache_limit"]) == (2, 3 * 2**29)
    assert saved(*flags, EFFNET_CLUSTER_SUBMIT_AUGMENT="0")["recipe"]["augment"] is False


def test_an_old_flat_file_is_told_where_its_setting_belongs(cli: Cli, home: Home, tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text("variants: b0\nworkers: 2\n")
    result = cli("submit", "--dry-run", "--spec", file, "--loader-workers", 1)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: workers belongs under 'execution:'; move it there\n"
    assert not home.root.exists()


def test_wrong_flags_are_told_before_the_data_are_opened(cli: Cli, tmp_path: Path) -> None:
    result = cli("submit", "--variants", "b0", "--data", tmp_path / "missing", "--workers", "0")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: execution.workers: ")


def test_a_file_with_a_section_that_is_none_is_told_in_one_line(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    for content in ("execution: 5", "execution: fast", "execution: [2]"):
        file.write_text(f"variants: b0\n{content}\n")
        for flags in ([], ["--workers", 2]):
            result = cli("submit", "--dry-run", "--spec", file, *flags)
            assert result.exit_code == 2
            assert result.stderr.startswith("error: execution: ")
            assert result.stderr.count("\n") == 1


@pytest.fixture
def resumed(cli: Cli, home: Home, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Execution]:
    """The execution with which `resume` asks for an experiment to go on; the engines themselves are not asked."""
    keep(home, "flowers", execution={"workers": 2, "loader_workers": 1}, recipe={"global_batch": 4})

    def call(*flags: object, **environment: str) -> Execution:
        asked: list[Execution] = []

        def resume(_: Home, name: str, execution: Execution) -> None:
            assert name == "flowers"
            asked.append(execution)
            raise KeyboardInterrupt

        monkeypatch.setattr("effnet_cluster.cluster.cli.resume.resume", resume)
        result = cli("resume", "flowers", *flags, **environment)
        assert result.exit_code == 1, result.stderr
        (execution,) = asked
        return execution

    return call


def test_resume_changes_what_is_given_and_nothing_else(resumed: Callable[..., Execution]) -> None:
    before = Execution(workers=WorkerRange(2, 2), loader_workers=1)
    assert resumed() == before
    changed = resumed("--workers", "1:4", "--on-corrupt", "skip", "--cache-limit", "2GB")
    update = {"workers": WorkerRange(1, 4), "on_corrupt": "skip", "cache_limit": ByteSize(2 * 10**9)}
    assert changed == before.model_copy(update=update)
    assert resumed(EFFNET_CLUSTER_RESUME_MAX_FAILURES="0").max_failures == 0


def test_resume_tells_a_wrong_setting_before_it_asks_an_engine(cli: Cli, home: Home) -> None:
    keep(home, "flowers")
    result = cli("resume", "flowers", "--workers", "0")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: workers: ")
