"""How a training ends early. Without torch, so that whoever started it can read the error without loading that."""

from __future__ import annotations


class EveryRankError(Exception):
    """Raised on every rank of a group at the same step."""


class PreemptedError(EveryRankError, RuntimeError):
    """This rank was asked to leave (SIGTERM, or its node is about to be reclaimed) and has left a checkpoint."""


class NonFiniteLossError(EveryRankError, ArithmeticError):
    """The loss became infinite or NaN. Training is deterministic: trying again would end the same way."""


class WrongSamplesError(EveryRankError, RuntimeError):
    """The epoch's samples were not those that the manifest says."""


class RanksDisagreeError(EveryRankError, RuntimeError):
    """Parameters or buffers differ between ranks: training went wrong and its result would be meaningless."""
