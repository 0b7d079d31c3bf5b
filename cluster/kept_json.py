"""The JSON files that the home keeps, read with distrust: a full disk or a lost machine may have left anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..datasets import one_line
from ..orchestration.errors import UserError


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it cannot be read, or holds something else; one line that names the file.
    """
    try:
        fields = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or one_line(error)}") from None
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, nested without end
        raise UserError(f"{path} is broken: {one_line(error, 120)}") from None
    if not isinstance(fields, dict):
        raise UserError(f"{path} is broken: it holds no JSON object")
    return fields
