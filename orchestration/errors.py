"""The errors of running experiments: a wrong call, or an engine that fails."""

from __future__ import annotations

from ..datasets import EffnetClusterError


class UserError(EffnetClusterError):
    """The call was wrong."""

    exit_code = 2


class NameTakenError(UserError):
    """The name of an experiment is another one's: `name`, where it is known."""

    name: str | None = None


class EngineError(EffnetClusterError):
    """The call was right, but Ray or MLflow cannot be reached, started or used."""

    exit_code = 1
