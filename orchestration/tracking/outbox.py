"""What a training has for the tracking server, kept until the server has it, and sent in order by one thread.

Training neither waits for the server nor notices when it is away. What is not sent yet is in a file on this machine and
in each checkpoint, so that it outlives the process.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import EngineError
from .server import FIRST_PAUSE_S, LONGEST_PAUSE_S, TELL_AGAIN_S, UnreachableError

Entry = dict[str, Any]
"""A JSON object; what it means is the sender's."""
_MOST_AT_ONCE = 200
_log = logging.getLogger(__name__)


class Outbox:
    """Sends entries in the order in which they came.

    Args:
        send: takes entries; called again with the same ones after an `UnreachableError`.
        file: keeps what is not sent; what an earlier process left in it comes first.
        earlier: entries that a checkpoint kept, older than those of the file.

    Raises:
        EngineError: (any method but `unsent`) the server has refused an entry.
    """

    def __init__(self, send: Callable[[Sequence[Entry]], None], file: Path, earlier: Sequence[Entry] = ()) -> None:
        self._send, self._file = send, file
        kept = _read(file)
        self._entries = [*earlier, *(entry for entry in kept if entry not in earlier)]
        self._changed = threading.Condition()
        self._closed = False
        self._refusal: EngineError | None = None
        self._file_works = True
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def put(self, entry: Entry) -> None:
        """Add an entry; returns at once."""
        with self._changed:
            self._raise_refusal()
            self._entries.append(entry)
            self._keep(entry)
            self._changed.notify_all()

    def unsent(self) -> list[Entry]:
        """What the server has not confirmed."""
        with self._changed:
            return list(self._entries)

    def drain(self, patience_s: float) -> None:
        """Return when everything is sent.

        Raises:
            UnreachableError: the server did not answer for `patience_s` seconds.
        """
        with self._changed:
            began = told = time.monotonic()
            while self._entries and not self._refusal:
                now = time.monotonic()
                if now - began >= patience_s:
                    raise UnreachableError(f"{len(self._entries)} entries for MLflow could not be sent; {self._file}")
                if now - told >= TELL_AGAIN_S:
                    told = now
                    _log.warning("training is over; %d entries wait for the MLflow server", len(self._entries))
                self._changed.wait(min(1.0, patience_s))
            self._raise_refusal()

    def close(self, patience_s: float) -> None:
        """Send what can be sent within `patience_s` seconds, and end the thread. Raises nothing; the file stays."""
        with contextlib.suppress(EngineError):
            self.drain(patience_s)
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        pause, away = FIRST_PAUSE_S, None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._entries or self._closed)
                if self._closed:
                    return
                batch = self._entries[:_MOST_AT_ONCE]
            try:
                self._send(batch)
            except UnreachableError as error:
                if away is None or time.monotonic() - away >= TELL_AGAIN_S:
                    away = time.monotonic()
                    _log.warning("%s; training goes on, and what it logs is kept and sent later", error)
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, timeout=pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
            except Exception as error:
                with self._changed:
                    self._refusal = error if isinstance(error, EngineError) else EngineError(f"MLflow: {error}")
                    self._changed.notify_all()
                    return
            else:
                if away is not None:
                    _log.info("MLflow answers again; what was kept is being sent")
                pause, away = FIRST_PAUSE_S, None
                with self._changed:
                    del self._entries[: len(batch)]
                    if not self._entries:
                        with contextlib.suppress(OSError):
                            self._file.unlink()
                    self._changed.notify_all()

    def _raise_refusal(self) -> None:
        if self._refusal is not None:
            raise self._refusal

    def _keep(self, entry: Entry) -> None:
        """Append to the file. Without one the training is still whole: each checkpoint has the entries."""
        if not self._file_works:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            self._file_works = False
            _log.warning("%s: %s; what waits for MLflow is kept in the checkpoints alone", self._file, error.strerror)


def _read(file: Path) -> list[Entry]:
    entries: list[Entry] = []
    with contextlib.suppress(OSError):
        for line in file.read_bytes().splitlines():
            with contextlib.suppress(ValueError):  # the last line of a process that was killed may be torn
                if isinstance(entry := json.loads(line), dict):
                    entries.append(entry)
    return entries
