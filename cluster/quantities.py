"""Amounts as people write them, `2G` and `8GiB`, and bytes as people read them."""

from __future__ import annotations

import re
from decimal import Decimal

from ..orchestration.errors import UserError

_AMOUNT = re.compile(r"(\d+(?:\.\d+)?(?:e\d{1,2})?)\s*([kmgt]?)(i?)(b?)", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_count(text: str, what: str) -> int:
    """A count with an SI suffix: `2G` → 2,000,000,000, `10.5M` → 10,500,000; the case does not matter.

    Args:
        text: what the user typed.
        what: the name of the setting, for the error.

    Raises:
        UserError: it is not such a number, or not at least 1.
    """
    match = _AMOUNT.fullmatch(text.strip())
    if match is None or match[3] or match[4]:
        raise UserError(f"{what}: cannot read '{text}'; write a number such as 2G, 500M or 5300000")
    return _at_least_one(match, 1000, text, what)


def parse_bytes(text: str, what: str) -> int:
    """An amount of memory: `8GiB` (or `8Gi`) → 8 * 1024³ bytes, `8GB` (or `8G`) → 8 * 1000³; the case does not matter.

    Raises:
        UserError: as `parse_count`.
    """
    match = _AMOUNT.fullmatch(text.strip())
    if match is None or (match[3] and not match[2]):
        raise UserError(f"{what}: cannot read '{text}'; write an amount such as 8GiB, 500MB or 16000000000")
    return _at_least_one(match, 1024 if match[3] else 1000, text, what)


def show_bytes(number: float) -> str:
    """Bytes for people, in powers of 1024: 1,572,864 → `1.5 MiB`."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    # 999.5 would be shown as `1e+03`.
    while number >= 999.5 and len(units) > 1:
        number /= 1024
        units.pop(0)
    return f"{number:.3g} {units[0]}" if number < 999.5 else f"{number:.0f} {units[0]}"


def _at_least_one(match: re.Match[str], kilo: int, text: str, what: str) -> int:
    # Decimal, because 8.3 * 1000³ in floating point is a byte too little.
    amount = int(Decimal(match[1]) * kilo ** _POWERS[match[2].lower()])
    if amount < 1:
        raise UserError(f"{what}: '{text}' is less than 1")
    return amount
