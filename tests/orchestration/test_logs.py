"""A job's log: what a process writes is read again with its level and trial, however the text arrives."""

import io
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnet_cluster.cluster.jobs import _ENVIRONMENT
from effnet_cluster.orchestration.logs import LogReader, configure_logging, read_log

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
PROCESSES = ("", "(run_trial pid=7) ", "(RayTrainWorker pid=71) ", "(RayTrainWorker pid=71, ip=10.0.0.2) ")
LOG = """\
2026-11-26 04:05:01,123\tINFO worker.py:2029 -- Connected to Ray cluster
(RayTrainWorker pid=71) 2026-11-26 04:05:06 INFO    [digits-b0-silu-s1] epoch 1/7  loss 2.3117
(RayTrainWorker pid=72) 2026-11-26 04:05:06 WARNING [digits-b0-silu-s10] /x.py:4: UserWarning: careful
(RayTrainWorker pid=71) 2026-11-26 04:05:07 ERROR   [digits-b0-silu-s1] it broke
(RayTrainWorker pid=72)   careful()
(RayTrainWorker pid=71) Traceback (most recent call last):
(RayTrainWorker pid=71, ip=10.0.0.2) another node's
2026/11/26 04:05:08 INFO mlflow.store: Waiting
(RayTrainWorker pid=71) ValueError: [digits-b0-silu-s10] is no head
(RayTrainWorker pid=72) 2026/11/26 04:05:09 WARNING mlflow.tracking: slow
2026-11-26 04:05:10 INFO    best: digits-b0-silu-s1  val top-1 0.9  models:/x@champion
2026-11-26 04:05:11 ERROR   [digits-b0-silu-s10] out of memory
and more of it
2026-11-26 04:05:12,001\tINFO tune.py:1007 -- Wrote"""

text_of_a_log = st.lists(
    st.one_of(st.sampled_from([*LOG.split("\n"), "", "\r", "ä\u2028ö", "["]), st.text(max_size=20))
).map("\n".join)


@given(text_of_a_log, st.data())
def test_any_cut_of_a_log_gives_the_same_lines(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)))))
    reader = LogReader()
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    lines = [line for piece in pieces for line in reader.feed(piece)]
    lines += reader.close()
    assert lines == read_log(text)
    assert "\n".join(line.text for line in lines) == text.removesuffix("\n")
    assert list(reader.close()) == []


def test_a_line_is_out_as_soon_as_it_ends() -> None:
    reader = LogReader()
    assert list(reader.feed("half a ")) == []
    assert [line.text for line in reader.feed("line\nand")] == ["half a line"]
    assert [line.text for line in reader.close()] == ["and"]


def test_a_trials_lines_are_its_records_and_what_follows_them_from_the_same_process() -> None:
    def numbers(trial: str | None) -> list[int]:
        return [i for i, line in enumerate(read_log(LOG)) if line.trial == trial]

    assert numbers("digits-b0-silu-s1") == [1, 3, 5, 8]
    assert numbers("digits-b0-silu-s10") == [2, 4, 9, 11, 12]
    assert numbers(None) == [0, 6, 7, 10, 13]


def test_levels_are_those_of_the_records() -> None:
    lines = read_log(LOG)
    levels = [None, "INFO", "WARNING", "ERROR", "WARNING", "ERROR", None, None, "ERROR", None, "INFO", "ERROR", "ERROR"]
    assert [line.level for line in lines] == [*levels, None]
    assert [line.message for line in lines if line.is_error] == ["it broke", "out of memory"]


@contextmanager
def logging_to_text() -> Iterator[io.StringIO]:
    """What goes to stderr; the process's logging and warnings are as they were afterwards."""
    root, package = logging.getLogger(), logging.getLogger("effnet_cluster")
    handlers, level = root.handlers, package.level
    stream = io.StringIO()
    root.handlers = []
    try:
        with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stderr", stream)
            yield stream
    finally:
        logging.captureWarnings(False)
        root.handlers = handlers
        package.setLevel(level)


@given(
    st.sampled_from(LEVELS),
    st.none() | st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True),
    st.from_regex(r"[^\s\[](.*\S)?", fullmatch=True).filter(lambda message: len(message.splitlines()) == 1),
    st.sampled_from(PROCESSES),
)
def test_what_is_written_is_read_again(level: str, trial: str | None, message: str, process: str) -> None:
    with logging_to_text() as stream:
        configure_logging("another")
        configure_logging(trial)
        logging.getLogger("effnet_cluster.orchestration.x").log(getattr(logging, level), "%s", message)
    lines = read_log(process + stream.getvalue()) if level != "DEBUG" else read_log(stream.getvalue())
    assert [(line.level, line.trial, line.message) for line in lines] == [(level, trial, message)] * (level != "DEBUG")
    assert all(line.text.startswith(process) and line.process == process.strip("() ") for line in lines)


def test_a_record_may_name_another_trial_and_has_a_trial_for_other_handlers() -> None:
    with logging_to_text() as stream:
        configure_logging()
        log = logging.getLogger("effnet_cluster.orchestration.driver")
        log.info("best")
        log.error("broke", extra={"trial": "digits-b0-silu-s0"})
        try:
            raise ValueError("why")
        except ValueError:
            log.exception("so", extra={"trial": "digits-b1-silu-s0"})
    lines = read_log(stream.getvalue())
    assert [(line.trial, line.message) for line in lines[:3]] == [
        (None, "best"),
        ("digits-b0-silu-s0", "broke"),
        ("digits-b1-silu-s0", "so"),
    ]
    assert lines[-1].text == "ValueError: why"
    assert {(line.trial, line.level) for line in lines[2:]} == {("digits-b1-silu-s0", "ERROR")}


def test_libraries_warnings_are_shown_once_with_the_trial_and_their_talk_is_not() -> None:
    """As in a worker of Ray Train, whose root logger has a handler to stderr and one to a file."""
    with logging_to_text() as stream:
        to_file = logging.NullHandler()
        logging.getLogger().handlers = [logging.StreamHandler(sys.stderr), to_file]
        configure_logging("digits-b0-silu-s0")
        library = logging.getLogger("some.library")
        library.setLevel(logging.INFO)
        library.info("talk")
        library.warning("careful")
        library.setLevel(logging.NOTSET)
        warnings.simplefilter("default")
        warnings.warn("old call", UserWarning, stacklevel=1)
        assert to_file in logging.getLogger().handlers
    text = stream.getvalue()
    assert "talk" not in text
    assert [line.message for line in read_log(text) if line.message == "careful"] == ["careful"]
    assert text.count("UserWarning: old call") == 1
    assert {(line.trial, line.level) for line in read_log(text)} == {("digits-b0-silu-s0", "WARNING")}


TORCH = """
import sys, torch, warnings
from effnet_cluster.orchestration.logs import configure_logging

block = torch.zeros(8)
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Parameter(block[:4]), torch.nn.Parameter(block[4:])
    def forward(self, x):
        return x * self.a + self.b

program = torch.export.export(Net(), (torch.ones(4),))
warnings.simplefilter("always")
torch.export.save(program, sys.argv[1])
print("----", file=sys.stderr, flush=True)
configure_logging("t")
torch.export.save(program, sys.argv[1])
warnings.warn("No complete answer")
"""
RAY = """
from effnet_cluster.orchestration.logs import configure_logging
import ray.tune.search.sample as sample, warnings
configure_logging("t")
sample._warn_for_base()
warnings.warn("No complete answer")
"""


def test_torchs_warning_of_weights_in_one_block_is_left_out(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", TORCH, str(tmp_path / "x.pt2")], capture_output=True, text=True, check=True
    )
    before, _, after = run.stderr.partition("----")
    assert "No complete tensor found in the group!" in before
    assert "No complete tensor" not in after
    assert "UserWarning: No complete answer" in after


def test_rays_deprecation_warnings_are_left_out_in_a_jobs_environment() -> None:
    def stderr(environment: dict[str, str]) -> str:
        run = [sys.executable, "-c", RAY]
        return subprocess.run(run, capture_output=True, text=True, check=True, env=os.environ | environment).stderr

    shown = stderr({"PYTHONWARNINGS": ""})
    assert "RayDeprecationWarning: " in shown
    assert "UserWarning: No complete answer" in shown
    shown = stderr(_ENVIRONMENT)
    assert "RayDeprecationWarning" not in shown
    assert "UserWarning: No complete answer" in shown
