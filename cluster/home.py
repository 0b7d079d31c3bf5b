"""Where effnet-cluster keeps what outlives a command: services, experiments, data caches."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..datasets import locked


@dataclass(frozen=True)
class Home:
    """The folder `~/.effnet-cluster`, or `EFFNET_CLUSTER_HOME`."""

    root: Path

    @classmethod
    def default(cls) -> Home:
        """The home of this user and environment."""
        place = os.environ.get("EFFNET_CLUSTER_HOME")
        return cls((Path(place) if place else Path.home() / ".effnet-cluster").expanduser().absolute())

    @property
    def experiments(self) -> Path:
        """One folder per experiment: its record, checkpoints and Tune state."""
        return self.root / "experiments"

    @property
    def cache(self) -> Path:
        """Embedded data sets, written when first used."""
        return self.root / "cache"

    @property
    def logs(self) -> Path:
        """What the services print."""
        return self.root / "logs"

    @property
    def mlflow(self) -> Path:
        """The tracking server's database and artifacts."""
        return self.root / "mlflow"

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold a lock between processes, so that two commands do not start the same service twice."""
        self.root.mkdir(parents=True, exist_ok=True)
        with locked(self.root / f"{re.sub(r'[^a-z]', '-', name)}.lock"):
            yield
