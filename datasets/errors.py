"""The project's errors, one line for a person and the exit code of the command, and how text is made fit for a line."""

import re

# What a terminal would obey instead of showing it: control characters, line ends, changes of the writing direction; and
# halves of characters, as Python reads file names that are not UTF-8.
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_CUT = " … "


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
    return shorten(" ".join(str(error).split()), limit) or type(error).__name__


def shorten(text: str, limit: int = 300) -> str:
    """At most `limit` characters of a text: its start, and more of its end, where most errors say what happened."""
    if len(text) <= limit:
        return text
    start = limit // 3
    end = limit - start - len(_CUT)
    return f"{text[:start]}{_CUT}{text[-end:]}" if end > 0 else text[:limit]


def visible(text: str) -> str:
    r"""The text with what a terminal would obey written as Python writes it, such as `\x1b` and `\n`."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
