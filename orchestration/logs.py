"""The log of a job: how each process of ours writes its records, and how the lines of a job's log are read again."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

_PACKAGE = __package__.partition(".")[0]
_TIME = "%Y-%m-%d %H:%M:%S"

# Ray puts the process before each line that is not the driver's own: `(RayTrainWorker pid=71, ip=10.0.0.2) `.
_PROCESS = re.compile(r"\((?P<process>[^()]*pid=\d+[^()]*|raylet[^()]*|autoscaler[^()]*)\) ")
_HEAD = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) +"
    r"(?:\[(?P<trial>[a-z0-9._-]+)\] )?(?P<message>.*)"
)
_HEAD_OF_OTHERS = re.compile(r"\d{4}[-/]\d\d[-/]\d\d \d\d:\d\d:\d\d")  # Ray's and MLflow's own loggers


def configure_logging(trial: str | None = None) -> None:
    """Send this process's records and Python's warnings to stderr, marked with `trial` unless they name their own.

    Of this package all records from INFO on are shown, of others what is a WARNING or worse. A second call replaces the
    first.
    """
    handler = _JobHandler(sys.stderr)
    handler.addFilter(_TrialFilter(trial))
    handler.addFilter(_of_interest)
    handler.setFormatter(_Formatter(datefmt=_TIME))
    root = logging.getLogger()
    # Ray Train gives its workers a handler to stderr; the one to its own file stays.
    root.handlers = [other for other in root.handlers if not _writes_to_terminal(other)] + [handler]
    logging.getLogger(_PACKAGE).setLevel(logging.INFO)
    logging.captureWarnings(True)
    # torch.export says so of each model that it saves whose weights lie in one block of memory, as our averaged ones
    # do. They are on the CPU, which is what it asks for.
    warnings.filterwarnings("ignore", r"No complete tensor found in the group! Returning the first one\.", UserWarning)


class _JobHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """The handler that `configure_logging` installs: a type of its own, so that the next call finds and replaces it."""


class _TrialFilter(logging.Filter):
    """Gives each record the trial that its process serves, as `record.trial`."""

    def __init__(self, trial: str | None) -> None:
        super().__init__()
        self._trial = trial

    def filter(self, record: logging.LogRecord) -> bool:
        """Called by the handler."""
        if not hasattr(record, "trial"):
            record.trial = self._trial
        return True


class _Formatter(logging.Formatter):
    """`2026-11-26 04:05:06 INFO    [digits-b0-silu-s0] epoch 1/7`."""

    def usesTime(self) -> bool:
        """Called by the base class."""
        return True

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Called by the base class, which adds a traceback."""
        trial = getattr(record, "trial", None)
        mark = f"[{trial}] " if trial else ""
        return f"{record.asctime} {record.levelname:<7} {mark}{record.message.rstrip()}"


def _of_interest(record: logging.LogRecord) -> bool:
    ours = record.name == _PACKAGE or record.name.startswith(f"{_PACKAGE}.")
    return ours or record.levelno >= logging.WARNING


def _writes_to_terminal(handler: logging.Handler) -> bool:
    return isinstance(handler, _JobHandler) or getattr(handler, "stream", None) in (sys.stderr, sys.stdout)


@dataclass(frozen=True)
class LogLine:
    """A line of a job's log.

    Args:
        text: as it stands there.
        process: which wrote it, in Ray's words; empty for the driver.
        level: of the record to which the line belongs; None if that is none of ours.
        trial: to which the line belongs, if any.
        message: of the record that begins with this line, without time, level and trial; None in its further lines.
    """

    text: str
    process: str
    level: str | None
    trial: str | None
    message: str | None

    @property
    def is_error(self) -> bool:
        """Whether a record of level ERROR or above begins here."""
        return self.message is not None and self.level in ("ERROR", "CRITICAL")


class LogReader:
    """Cuts a job's log, which arrives in pieces of any length, into lines.

    A line without a time stamp, such as a traceback's, belongs to the record before it from the same process. Records
    of others belong to the trial for which their process has spoken: a worker serves one only.
    """

    def __init__(self) -> None:
        self._rest = ""
        self._latest: dict[str, LogLine] = {}  # the head of each process's latest record

    def feed(self, chunk: str) -> Iterator[LogLine]:
        """The lines that end within `chunk`."""
        *lines, self._rest = (self._rest + chunk).split("\n")
        for text in lines:
            yield self._line(text)

    def close(self) -> Iterator[LogLine]:
        """The last line, if no line feed ends it."""
        rest, self._rest = self._rest, ""
        if rest:
            yield self._line(rest)

    def _line(self, text: str) -> LogLine:
        prefix = _PROCESS.match(text)
        process, start = (prefix["process"], prefix.end()) if prefix else ("", 0)
        latest = self._latest.get(process) or LogLine(text, process, None, None, None)
        if head := _HEAD.match(text, start):
            line = LogLine(text, process, head["level"], head["trial"], head["message"])
        elif _HEAD_OF_OTHERS.match(text, start):
            line = replace(latest, text=text, level=None, trial=latest.trial if process else None, message=None)
        else:
            return replace(latest, text=text, message=None)
        self._latest[process] = line
        return line


def read_log(text: str) -> list[LogLine]:
    """The lines of a whole log."""
    reader = LogReader()
    return [*reader.feed(text), *reader.close()]
