"""Where effnet-cluster keeps what outlives a command: services, experiments, data caches."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ..datasets import DIGITS, Manifest, locked, one_line, open_dataset, visible
from ..orchestration.errors import UserError


@dataclass(frozen=True)
class Home:
    """The folder `~/.effnet-cluster`, or `EFFNET_CLUSTER_HOME`. No other user of the machine can enter it."""

    root: Path

    @classmethod
    def default(cls) -> Home:
        """The home of this user and environment.

        Raises:
            UserError: there is none, or its name would go wrong on its way through the engines.
        """
        place = os.environ.get("EFFNET_CLUSTER_HOME")
        try:
            root = (Path(place) if place else Path.home() / ".effnet-cluster").expanduser().absolute()
        except RuntimeError as error:  # no such user, or one without a home
            raise UserError(f"no home: {one_line(error)}; EFFNET_CLUSTER_HOME names one") from None
        if str(root) != visible(str(root)):
            raise UserError(
                f"the home {visible(str(root))} has control characters in its name, or is not UTF-8; "
                "EFFNET_CLUSTER_HOME names another"
            )
        return cls(root)

    def make(self) -> Self:
        """Make the folder if it is missing, and close it to other users if it is open.

        Raises:
            UserError: it cannot be made or closed, such as one of another user.
        """
        try:
            make_private(self.root)
            if not os.access(self.root, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, "cannot be written")
        except OSError as error:
            raise UserError(f"{self.root}: {error.strerror}; EFFNET_CLUSTER_HOME names another folder") from error
        return self

    @property
    def experiments(self) -> Path:
        """One folder per experiment: its record, checkpoints and Tune state."""
        return self.root / "experiments"

    @property
    def cache(self) -> Path:
        """Embedded data sets, written when first used."""
        return self.root / "cache"

    def open_dataset(self, data: str, cache_limit: int | None = None, *, typed: bool = True) -> Manifest:
        """The manifest of a data set, as `datasets.open_dataset` opens it, with this home for what it keeps."""
        if data == DIGITS:
            self.make()
        manifest = open_dataset(data, self.cache, cache_limit, typed=typed)
        if "://" in data:  # it is when its shards are read that the home keeps something
            self.make()
        return manifest

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
        with locked(self.make().root / f"{re.sub(r'[^a-z]', '-', name)}.lock"):
            yield


def make_private(folder: Path) -> None:
    """Make a folder for this user alone (mode 0700), or make an existing one so.

    Raises:
        OSError: it cannot be made, or belongs to another user and is open to others.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_mode & 0o077:
        folder.chmod(0o700)
