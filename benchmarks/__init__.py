"""Measurements of the project against its own promises and against plain alternatives."""
