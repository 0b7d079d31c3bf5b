"""Processes that outlive a command: which is which, also where an id is used again, and how to end one."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_TERMINATE_S, _KILL_S = 10, 5


def start_mark(pid: int) -> str | None:
    """What tells a process from any other that has or had its id; None if there is none of that id.

    The mark is when the process started, in clock ticks since the machine's boot, and which boot that was. A time of
    day would not do: it moves when somebody sets the clock.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        # Other systems than Linux have no such file, and keep the time of day at which a process started.
        if _BOOT_ID.exists() or not psutil.pid_exists(pid):
            return None
        return str(psutil.Process(pid).create_time())
    # The second field, the name in brackets, may hold anything; the start is the 22nd (man 5 proc_pid_stat).
    ticks = stat.rpartition(")")[2].split()[19]
    return f"{_BOOT_ID.read_text().strip()}:{ticks}"


def find_process(pid: int, mark: str) -> psutil.Process | None:
    """The living process of this id and mark, or None."""
    try:
        process = psutil.Process(pid)
        alive = start_mark(pid) == mark and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ValueError):  # negative, for which psutil has no word of its own
        return None
    return process if alive else None


def end_with_children(process: psutil.Process) -> None:
    """Terminate a process and everything that it started; what has not ended after ten seconds is killed."""
    family = [*process.children(recursive=True), process]
    for member in reversed(family):
        with contextlib.suppress(psutil.NoSuchProcess):
            member.terminate()
    _, alive = psutil.wait_procs(family, timeout=_TERMINATE_S)
    for member in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(alive, timeout=_KILL_S)
