"""The one exception that this room raises for a mistake of the user's or for bad input."""


class DataError(Exception):
    """One line for a person: what is wrong, where, and what to do. Callers print it without a traceback."""
