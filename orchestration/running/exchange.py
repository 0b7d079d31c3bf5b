"""Population based training: a trial takes over the weights of a better one and goes on with another recipe.

Jaderberg et al. 2017. Ray Tune's scheduler decides who takes over whose weights. The checkpoints are in the trials' own
storages, of which Tune knows nothing: here they are copied, so that a trial that is lost at any moment has either the
old ones or the new ones.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..errors import EngineError
from ..training.checkpoint_names import epoch_of
from ..training.checkpoint_store import FOLDER
from ..training.storage import Storage

# Beside a trial's checkpoints: what others may take over, what was taken over last, and the list of that.
_OFFERED, _TAKEN, _FILE = "offered", "taken", "exchanges.json"
# Seconds that a checkpoint may take to be written after its epoch was reported, and between two looks.
_WRITTEN_S, _POLL_S = 60.0, 0.2


@dataclass(frozen=True)
class Exchange:
    """One taking over.

    Attributes:
        epoch: finished epochs of the weights.
        donor: the trial that had them.
        digest: names the donor's training, of which the checkpoints are.
        swept: the fields of the recipe with which the trial goes on.
        done: whether the checkpoints are in place.
    """

    epoch: int
    donor: str
    digest: str
    swept: Mapping[str, Any]
    done: bool = False


class Exchanges:
    """The exchanges of one trial, the earliest first.

    Args:
        storage: the trial's.

    Raises:
        OSError: (any method) the storage cannot be read or written.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def all(self) -> list[Exchange]:
        """What there was so far; one that was interrupted is brought to its end first."""
        try:
            found = [Exchange(**fields) for fields in json.loads(self._storage.read(_FILE))]
        except FileNotFoundError:
            return []
        if found and not found[-1].done:
            found[-1] = self._put_in_place(found)
        return found

    def offer(self, epoch: int) -> int:
        """Keep a copy of the checkpoints at the latest epoch's end for others; returns the epoch.

        Args:
            epoch: finished epochs; a checkpoint of fewer is not enough.

        Raises:
            EngineError: there is no such checkpoint within a minute.
        """
        deadline = time.monotonic() + _WRITTEN_S
        while True:
            # The latest, and the best ones that it names.
            ends = {name: found for name in self._storage.names(FOLDER) if (found := epoch_of(name)) is not None}
            if max(ends.values(), default=0) >= epoch:
                break
            if time.monotonic() > deadline:
                raise EngineError(f"no checkpoint of epoch {epoch} in {self._storage.address} to take over")
            time.sleep(_POLL_S)
        _copy(self._storage, FOLDER, list(ends), self._storage, _OFFERED)
        return max(ends.values())

    def take_over(self, donor: Storage, exchange: Exchange) -> Exchange:
        """Replace this trial's checkpoints by those that the donor offers; returns the exchange as it was done."""
        before = self.all()
        while True:
            names = donor.names(_OFFERED)
            try:
                _copy(donor, _OFFERED, names, self._storage, _TAKEN)
                break
            except FileNotFoundError:  # the donor is just offering later ones
                time.sleep(_POLL_S)
        exchange = replace(exchange, epoch=max(epoch_of(name) or 0 for name in names))
        self._write([*before, exchange])
        return self._put_in_place([*before, exchange])

    def _put_in_place(self, found: list[Exchange]) -> Exchange:
        for name in self._storage.names(FOLDER):
            self._storage.delete(f"{FOLDER}/{name}")
        _copy(self._storage, _TAKEN, self._storage.names(_TAKEN), self._storage, FOLDER)
        done = replace(found[-1], done=True)
        self._write([*found[:-1], done])
        return done

    def _write(self, exchanges: list[Exchange]) -> None:
        self._storage.write(_FILE, json.dumps([asdict(one) for one in exchanges], indent=1).encode())


def _copy(source: Storage, folder: str, names: list[str], target: Storage, to: str) -> None:
    """Copy files; those of other names go from the target."""
    for name in names:
        target.write(f"{to}/{name}", source.read(f"{folder}/{name}"))
    for name in set(target.names(to)) - set(names):
        target.delete(f"{to}/{name}")
