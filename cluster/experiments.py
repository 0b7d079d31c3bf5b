"""The record of every submitted experiment: where it runs, where it is tracked, and under which job."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ..datasets import write_atomically
from ..orchestration.errors import NameTakenError, UserError
from ..orchestration.request import ExperimentRequest
from ..orchestration.spec import parse_fields
from ..orchestration.tracking.records import Outcome
from ..orchestration.tracking.runs import Tracker
from .engines import Engines
from .home import Home
from .jobs import JOB_STATES
from .kept_json import read_object

_FILE = "record.json"


@dataclass(frozen=True)
class Experiment:
    """A submitted experiment. `jobs` are Ray job ids, the latest last; `created` is in seconds since 1970.

    `local_ray` and `local_mlflow` say which engines are our own embedded ones, whose ports may have changed since.
    `ended` is the state in which the latest job left the experiment, once somebody has seen that it has ended.
    """

    request: ExperimentRequest
    address: str
    local_ray: bool
    local_mlflow: bool
    jobs: tuple[str, ...]
    created: float
    ended: Outcome | None = None

    def at(self, address: str, tracking_uri: str) -> Experiment:
        """The experiment with these addresses of its engines."""
        request = self.request.model_copy(update={"tracking_uri": tracking_uri})
        return replace(self, request=request, address=address)

    @property
    def name(self) -> str:
        """The experiment's name, in MLflow too."""
        return self.request.spec.name

    @property
    def job(self) -> str:
        """Id of the latest job."""
        return self.request.job

    @property
    def tracker(self) -> Tracker:
        """The experiment's runs in MLflow."""
        return Tracker(self.request.tracking_uri, self.name, self.request.uid)


class Experiments:
    """The experiments of one home."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._root = home.experiments

    def names(self) -> list[str]:
        """All names, oldest first; those whose records cannot be read last, for they are taken too."""
        return [*self._summaries()]

    def problems(self) -> list[str]:
        """What is wrong with the records that cannot be read, a line for each, which names the file."""
        return [found for found in self._summaries().values() if isinstance(found, str)]

    def local_jobs(self) -> dict[str, str]:
        """The latest job of every experiment on the embedded Ray head, by the experiment's name."""
        found = self._summaries().items()
        return {name: one.jobs[-1] for name, one in found if isinstance(one, _Summary) and one.local_ray}

    def load(self, name: str) -> Experiment:
        """The record of an experiment. Raises `UserError` if there is none of that name."""
        path = self.folder(name) / _FILE
        if not path.exists():
            known = ", ".join(self.names()[-5:])
            hint = f"the latest are {known}" if known else "submit one first"
            raise UserError(f"no experiment '{name}'; {hint}")
        return self._read(path)

    def folder(self, name: str) -> Path:
        """Where an experiment keeps its record, and its checkpoints unless it has another storage."""
        return self._root / name

    def free_name(self, wanted: str, besides: Collection[str] = ()) -> str:
        """`wanted`, or `wanted-2`, `wanted-3`, … where it is taken, here or by what is in `besides`."""
        taken = {*self.names(), *besides}
        return next(n for n in (wanted, *(f"{wanted}-{i}" for i in range(2, 10**6))) if n not in taken)

    def require_free(self, name: str) -> None:
        """Raise `NameTakenError` if there is an experiment of that name."""
        if name in self.names():
            raise NameTakenError(f"experiment '{name}' exists; choose another --name or `effnet-cluster resume {name}`")

    def new(self, request: ExperimentRequest, engines: Engines) -> Experiment:
        """A record for a first job; `save` keeps it."""
        return Experiment(
            request, engines.address, engines.local_ray, engines.local_mlflow, (request.job,), time.time()
        )

    def save(self, experiment: Experiment) -> None:
        """Write a record, atomically."""
        self._home.make()
        folder = self.folder(experiment.name)
        folder.mkdir(parents=True, exist_ok=True)
        fields = vars(experiment) | {"request": experiment.request.model_dump(mode="json")}
        write_atomically(folder / _FILE, json.dumps(fields, indent=1))

    def remove(self, name: str) -> None:
        """Forget an experiment; its folder goes if nothing else is in it."""
        folder = self.folder(name)
        (folder / _FILE).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            folder.rmdir()

    def _summaries(self) -> dict[str, _Summary | str]:
        """What the records say, or what is wrong with them, by name, oldest first.

        Plans are not checked: they are long, and one of another version must not keep `submit` or `down` from working.
        """
        found = {path.parent.name: _summary(path) for path in self._root.glob(f"*/{_FILE}")}
        return dict(sorted(found.items(), key=lambda item: getattr(item[1], "created", math.inf)))

    @staticmethod
    def _read(path: Path) -> Experiment:
        fields = read_object(path)
        try:
            return Experiment(**vars(parse_fields(_Record, fields)))
        except UserError:
            raise UserError(
                f"{path} is broken, or was written by another version of effnet-cluster; move its folder away"
            ) from None


class _Summary(BaseModel):
    """The fields of a record that every command needs."""

    jobs: tuple[str, ...] = Field(min_length=1)
    local_ray: bool
    created: float = Field(ge=0, lt=2.5e11)  # a date that can be shown


class _Record(_Summary):
    """All fields of a record."""

    model_config = ConfigDict(extra="forbid")

    request: ExperimentRequest
    address: str
    local_mlflow: bool
    # Earlier versions kept the job's status in Ray's words.
    ended: Annotated[Outcome | None, BeforeValidator(lambda value: JOB_STATES.get(value, value))] = None


def _summary(path: Path) -> _Summary | str:
    try:
        return parse_fields(_Summary, read_object(path))
    except (UserError, FileNotFoundError) as error:
        told = str(error) if str(path) in str(error) else f"{path} is broken: {error}"
        return f"{told}; move its folder away"


def next_job(experiment: Experiment) -> Experiment:
    """The record with a fresh job id for a resumed run: `flowers`, then `flowers-r2`, `flowers-r3`, …"""
    job = f"{experiment.name}-r{len(experiment.jobs) + 1}"
    request = experiment.request.model_copy(update={"job": job})
    return replace(experiment, request=request, jobs=(*experiment.jobs, job), ended=None)
