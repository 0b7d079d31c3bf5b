"""The address of a server that a flag names: checked before anything is asked there."""

from __future__ import annotations

from ..datasets import DataError, server_address
from ..orchestration.errors import UserError


def named_server(flag: str, text: str, expected: str) -> str:
    """The address without slashes at its end.

    Args:
        flag: that the text was given with.
        text: what the user typed.
        expected: completes the error: "expected ...".

    Raises:
        UserError: it is no address of a web server.
    """
    try:
        return server_address(text, f"expected {expected}")
    except DataError as error:
        raise UserError(f"{flag} {error}") from None
