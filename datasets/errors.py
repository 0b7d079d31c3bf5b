"""The project's errors: one line for a person, and the exit code with which a command ends."""


class EffnetClusterError(Exception):
    """What this project raises on purpose: one line that says what is wrong, where, and what to do.

    Commands print that line without a traceback, and end with `exit_code`.
    """

    exit_code = 1


class DataError(EffnetClusterError):
    """Bad input: a data set, an image, or the arguments of a call."""

    exit_code = 2


class UnavailableError(DataError):
    """A store of data did not answer for a while; it may do so later."""


def one_line(error: BaseException, limit: int = 300) -> str:
    """The error's message in one line of at most `limit` characters; its type where it has no message."""
    return " ".join(str(error).split())[:limit] or type(error).__name__
