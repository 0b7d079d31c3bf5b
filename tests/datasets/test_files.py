"""Files between processes: replaced whole or not at all, locked by one at a time; and errors in one line."""

import subprocess
import sys
import threading
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnet_cluster.datasets import DataError, EffnetClusterError, locked, one_line, visible, write_atomically
from effnet_cluster.datasets.files import replacing


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    path, seen, done = tmp_path / "file", set(), threading.Event()
    write_atomically(path, "a" * 1_000_000)

    def write() -> None:
        for number in range(60):
            write_atomically(path, "ba"[number % 2] * 1_000_000)
        done.set()

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    while not done.is_set():
        text = path.read_text()
        seen.add((len(text), len(set(text))))
    for writer in writers:
        writer.join()
    assert seen == {(1_000_000, 1)}
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def replace() -> None:
        with replacing(path) as fresh:
            fresh.write_text("half of the n")
            raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        replace()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_text_is_utf8_and_lines_end_as_given(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", "Käse\r\n\n")
    assert (tmp_path / "file").read_bytes() == "Käse\r\n\n".encode()


def test_one_process_at_a_time_holds_a_lock(tmp_path: Path) -> None:
    """Four processes read a number, wait and write the next one; without the lock they would overwrite each other's."""
    code = (
        "import sys, time; from pathlib import Path; from effnet_cluster.datasets import locked\n"
        "lock, number = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "for _ in range(10):\n"
        "    with locked(lock):\n"
        "        value = int(number.read_text()); time.sleep(0.003); number.write_text(str(value + 1))"
    )
    (tmp_path / "number").write_text("0")
    command = [sys.executable, "-c", code, str(tmp_path / "lock"), str(tmp_path / "number")]
    running = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait() for process in running] == [0] * 4
    assert (tmp_path / "number").read_text() == "40"


def test_a_lock_is_free_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wrong"), locked(tmp_path / "lock"):
        raise ValueError("wrong")
    with locked(tmp_path / "lock"):
        pass


@given(st.text(), st.integers(1, 400))
def test_an_error_becomes_one_line(text: str, limit: int) -> None:
    line = one_line(ValueError(text), limit)
    assert len(line.splitlines()) == 1
    assert len(line) <= max(limit, len("ValueError"))
    whole = " ".join(text.split()) or "ValueError"
    assert line == whole or len(line) == limit < len(whole)


@given(st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1), st.integers(60, 400))
def test_an_error_that_is_cut_keeps_its_start_and_its_end(text: str, limit: int) -> None:
    error = f"at {text * 400}: reason"
    line = one_line(ValueError(error), limit)
    assert len(line) == limit
    assert line.startswith(f"at {text[:5]}")
    assert line.endswith(": reason")
    start, end = line.split(" … ", 1)[0], line.rsplit(" … ", 1)[-1]
    assert error.startswith(start)
    assert error.endswith(end)


@given(st.text())
def test_what_a_terminal_would_obey_is_visible(text: str) -> None:
    shown = visible(text)
    assert not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in shown)
    assert visible(shown) == shown
    assert text != shown or not any(unicodedata.category(character) in ("Cc", "Cs") for character in text)


def test_exit_codes() -> None:
    assert issubclass(DataError, EffnetClusterError)
    assert (EffnetClusterError.exit_code, DataError.exit_code) == (1, 2)
