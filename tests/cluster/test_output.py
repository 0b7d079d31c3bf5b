"""What commands print: the user's text as it is, in whatever encoding, also to a reader that has gone."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image
from rich.table import Table

from effnet_cluster.cluster.cli import main
from effnet_cluster.cluster.cli.bar import progress_bar
from effnet_cluster.cluster.cli.console import print_data, print_json, print_line, stderr_console
from effnet_cluster.cluster.cli.following import print_pages
from effnet_cluster.cluster.experiments import Experiments
from effnet_cluster.cluster.home import Home

from .conftest import Cli, keep

ROOT = Path(__file__).parents[2]
# As a user writes it → as it is shown.
NAMES = {
    "[a]/x.jpg": "[a]/x.jpg",
    "b[/c]/x.jpg": "b[/c]/x.jpg",
    "[bold red]x[/]": "[bold red]x[/]",
    "[link=http://x]y": "[link=http://x]y",
    r"\[a]": r"\[a]",
    ":smile:.jpg": ":smile:.jpg",
    "100%": "100%",
    "{task.total}": "{task.total}",
    "\x1b[31mred\x1b[0m": r"\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07": r"\x1b]0;title\x07",
    "\x9b31m": r"\x9b31m",
    "a\rb": r"a\rb",
    "a\tb": r"a\tb",
    "a\x08b": r"a\x08b",
    "\u202egpj.exe": r"\u202egpj.exe",
    "a\u2028b": r"a\u2028b",
    "\udcff.jpg": r"\udcff.jpg",
    "Grüße 花 👍.jpg": "Grüße 花 👍.jpg",
}
every_name = pytest.mark.parametrize(("name", "shown"), NAMES.items(), ids=range(len(NAMES)))


@every_name
def test_a_name_is_shown_as_it_is_wherever_it_stands(name: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("image", name, title=name, title_justify="left")
    table.add_row(name, name)
    print_data(table)
    out = capsys.readouterr().out
    assert out.count(shown) == 4
    assert "\x1b" not in out
    print_line(f"{name}: no such file", err=True)
    stderr_console().print(f"{name}: no such file", soft_wrap=True)
    assert capsys.readouterr().err == 2 * f"{shown}: no such file\n"


def test_a_line_end_in_a_name_ends_no_row(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("image", box=None)
    table.add_row("a\nb")
    print_data(table)
    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == ["image", r"a\nb"]


@every_name
def test_a_name_is_shown_as_it_is_beside_a_progress_bar(name: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")  # for Rich, a terminal
    with progress_bar(stderr_console(), "x") as show:
        show(1, 2, name)
    assert shown in sys.stderr.getvalue()  # type: ignore[attr-defined]


@every_name
def test_an_experiment_on_data_of_any_name_is_listed(cli: Cli, home: Home, name: str, shown: str) -> None:
    if "\udcff" in name:
        pytest.skip("a data path that is not UTF-8 is in no record")
    keep(home, "mine", data=f"/x/{name}")
    result = cli("list")
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"/x/{shown}" in result.stdout
    assert json.loads(cli("list", "--json").stdout)[0]["data"] == f"/x/{name}"


@every_name
def test_an_error_shows_the_name_that_it_is_about(cli: Cli, name: str, shown: str) -> None:
    result = cli("submit", "--variants", "b0", "--data", f"/nowhere/{name}")
    assert result.exit_code == 2
    assert f"/nowhere/{shown}" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["[b]", "[bold red]", ":smile:", "a b"])
def test_classes_of_any_name_are_inspected(cli: Cli, tmp_path: Path, name: str) -> None:
    for kind in (name, "other"):
        (tmp_path / "raw" / kind).mkdir(parents=True)
        for number in range(3):
            picture = Image.new("RGB", (8, 8), (number * 60, len(kind) * 10, 0))
            picture.save(tmp_path / "raw" / kind / f"{number}.png")
    out = tmp_path / "[shards]"
    prepared = cli("data", "prepare", tmp_path / "raw", out, "--workers", 1)
    assert prepared.exit_code == 0, prepared.stderr
    assert str(out) in prepared.stdout
    found = cli("data", "inspect", out)
    assert name in found.stdout
    assert str(out) in found.stdout


# Encodings. A runner of another character set stands for a terminal of it.

COMMANDS = [
    *(("-h",), ("submit", "-h"), ("submit", "--help-all"), ("scale", "grid", "-h"), ("list",), ("list", "--json")),
    *(("status",), ("describe", "b0"), ("scale", "--max-macs", "500M"), ("scale", "--max-macs", "500M", "--json")),
    *(
        ("logs", "花"),
        ("submit", "--variants", "ö"),
        ("describe", "ö"),
        ("data", "inspect", "/ö"),
        ("data", "index", "/ö"),
    ),
    *(("bench", "-h"), ("data", "index", "/ö"), ("predict", "ö[/a].jpg", "--model", "ö"), ("submit", "--ö"), ("ö",)),
]


@pytest.mark.parametrize("charset", ["ascii", "latin-1", "cp1252", "koi8-r", "utf-8"])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_what_an_encoding_lacks_is_written_with_backslashes(home: Home, charset: str, command: tuple[str, ...]) -> None:
    keep(home, "mine", data="/Grüße/花 👍")
    # Anything unexpected is raised, such as a character that cannot be encoded.
    result = CliRunner(charset=charset).invoke(main, command, catch_exceptions=False, prog_name="effnet-cluster")
    assert result.exit_code in (0, 1, 2)
    assert result.output
    if command == ("list",):
        told = "/Grüße/花 👍".encode(charset, "backslashreplace")
        assert told in result.stdout_bytes
        assert ("│".encode() in result.stdout_bytes) == (charset == "utf-8")
    if "--json" in command:
        json.loads(result.stdout)


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "ascii:strict"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=str,
)
def test_a_real_terminal_without_utf_8_gets_tables_of_ascii(home: Home, environment: dict[str, str]) -> None:
    keep(home, "mine", data="/Grüße/花")
    run = run_cli("list", environment=environment)
    assert (run.returncode, run.stderr) == (0, b"")
    assert rb"/Gr\xfc\xdfe/\u82b1" in run.stdout
    run.stdout.decode("ascii")
    run = run_cli("logs", "ö", environment=environment)
    assert run.returncode == 2
    assert run.stderr.startswith(b"error: no experiment '")
    assert run.stderr.count(b"\n") == 1


def test_json_may_hold_any_character_where_stdout_takes_it(capsys: pytest.CaptureFixture[str]) -> None:
    print_json(["花"], ascii_only=False)
    print_json(["花"])
    assert capsys.readouterr().out == '["花"]\n["\\u82b1"]\n'


def run_cli(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    code = "import sys; from effnet_cluster.cluster.cli import main; main(prog_name='effnet-cluster')"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, timeout=60, env={**os.environ, **environment})


# Readers that have gone


@pytest.mark.parametrize("arguments", ["list", "describe b0", "scale --max-macs 500M --grid --json", "submit -h"])
@pytest.mark.parametrize("closed", ["| true", ">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_pipe_or_stream_is_no_traceback(home: Home, tmp_path: Path, arguments: str, closed: str) -> None:
    keep(home, "mine")
    code = "from effnet_cluster.cluster.cli import main; main(prog_name='effnet-cluster')"
    told = tmp_path / "stderr"
    redirect = "" if "2>" in closed else f"2>{told}"
    script = f"'{sys.executable}' -c \"{code}\" {arguments} {redirect} {closed}"
    run = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in run.stderr
    assert not told.exists() or told.read_text() == ""


# One place


def calls(tree: ast.AST) -> set[str]:
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def imported(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


# Says which port a service has moved to: numbers and names of its own.
OWN_WORDS = {"cluster/services.py"}


@pytest.mark.parametrize("file", sorted((ROOT / "cluster").rglob("*.py")), ids=lambda path: path.name)
def test_nothing_is_printed_past_the_one_console(file: Path) -> None:
    name, tree = file.relative_to(ROOT).as_posix(), ast.parse(file.read_text())
    if name in {"cluster/cli/console.py", *OWN_WORDS}:
        return
    assert not calls(tree) & {"print", "click.echo", "click.secho", "Console", "Text", "rich.print", "pprint"}
    markup = {"rich.print", "rich.text.Text", "rich.markup.render", "rich.pretty.pprint", "rich.emoji.Emoji"}
    assert not imported(tree) & markup
    # Rich reads these as markup whatever the console says.
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "TextColumn":
            assert "markup=False" in [ast.unparse(keyword) for keyword in node.keywords]
        if isinstance(node, ast.keyword) and node.arg in ("markup", "emoji", "highlight"):
            assert ast.unparse(node.value) == "False"


def test_the_reader_of_calls_sees_them() -> None:
    tree = ast.parse((ROOT / "cluster/cli/console.py").read_text())
    assert {"click.echo", "super"} <= calls(tree)
    assert {"rich.console.Console", "click"} <= imported(tree)


def test_where_mlflow_does_not_answer_its_own_address_is_told(
    home: Home, closed_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = f"http://127.0.0.1:{closed_port}"
    keep(home, "flowers", "http://ray:8265", gone)
    print_pages(Experiments(home).load("flowers"))
    told = [line.split()[:3] for line in capsys.readouterr().err.splitlines()]
    assert told == [["MLflow", "UI", gone], ["Ray", "dashboard", "http://ray:8265"]]
