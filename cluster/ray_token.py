"""Ray's token authentication, which stays on for every cluster of ours.

The token is the user's own (`~/.ray/auth_token` or what Ray's variables name), so that `ray job list` and the dashboard
take the same one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ..datasets import SAFE_PATH, one_line, shorten
from ..orchestration.errors import EngineError


def use_token() -> bool:
    """Send this user's token with every request, if there is one; returns whether there is.

    A mode that the user has set in `RAY_AUTH_MODE` stays.

    Raises:
        EngineError: the token's file is empty or cannot be read.
    """
    found = bool(os.environ.get("RAY_AUTH_TOKEN")) or _has_token(_file())
    if found:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    return found


def ensure_token() -> None:
    """Make a token if this user has none, and see that nobody else can read it.

    Raises:
        EngineError: Ray cannot make one, or others can read the one that there is and that cannot be changed.
    """
    if not use_token():
        command = [sys.executable, "-m", "ray.scripts.scripts", "get-auth-token", "--generate"]
        environment = {**os.environ, **SAFE_PATH}
        done = subprocess.run(command, capture_output=True, text=True, check=False, umask=0o077, env=environment)
        if done.returncode or not use_token():
            reason = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
            raise EngineError(f"`ray get-auth-token --generate` failed: {shorten(reason[0])}")
    # Ray itself makes it readable to all.
    if not os.environ.get("RAY_AUTH_TOKEN") and _file().stat().st_mode & 0o077:
        try:
            _file().chmod(0o600)
        except OSError as error:
            raise EngineError(f"other users can read the token {_file()}, and it stays so: {error.strerror}") from error


def _has_token(file: Path) -> bool:
    try:
        content = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise EngineError(f"Ray's token {file} cannot be read: {error.strerror or one_line(error)}") from None
    if not content.strip():
        raise EngineError(f"Ray's token {file} is empty; remove the file, and `effnet-cluster up` makes another")
    return True


def _file() -> Path:
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
