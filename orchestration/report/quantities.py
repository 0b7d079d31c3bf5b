"""Counts and time spans as people read them."""

from __future__ import annotations


def count(number: int) -> str:
    """A large count for people: 5,288,548 → `5.29M`."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g}{unit}"
    return str(number)


def duration(seconds: float) -> str:
    """A time span for people: 75 → `1m15s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
