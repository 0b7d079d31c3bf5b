"""Exceptions for what a user can correct: one line that says what is wrong, where, and what to do."""

from __future__ import annotations


class UserError(Exception):
    """The call was wrong. The command line prints the message without a traceback and exits with `exit_code`."""

    exit_code = 2


class EngineError(UserError):
    """The call was right, but Ray or MLflow cannot be reached, started or used."""

    exit_code = 1
