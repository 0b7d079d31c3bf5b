"""Searches: which configurations the trials of a sweep have, and in which order they are tried."""
