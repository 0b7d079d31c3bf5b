"""`Execution`: where and how a trial runs, as data. None of it changes what is trained."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, PlainSerializer

from .settings import Shown

_SPAN = re.compile(r"(\d{1,5})(?::(\d{1,5}))?")


class WorkerRange(NamedTuple):
    """The least and the greatest number of DDP workers of a trial; it is elastic where they differ."""

    fewest: int
    most: int

    def __str__(self) -> str:
        return str(self.most) if self.fewest == self.most else f"{self.fewest}:{self.most}"


def _parse_workers(value: Any) -> Any:
    """`4` and `"4"` are one number, `"2:4"` is a range."""
    if isinstance(value, WorkerRange):
        return value
    span = _SPAN.fullmatch(str(value).strip()) if isinstance(value, int | str) else None
    if span is None or isinstance(value, bool):
        raise ValueError("expected a number such as 4, or a range such as 2:4")
    fewest, most = int(span[1]), int(span[2] or span[1])
    if fewest < 1:
        raise ValueError("expected at least 1 worker")
    if fewest > most:
        raise ValueError(f"{value} runs backwards; the smaller number comes first")
    return WorkerRange(fewest, most)


def _plain_workers(workers: WorkerRange) -> int | str:
    return workers.most if workers.fewest == workers.most else str(workers)


Workers = Annotated[WorkerRange, BeforeValidator(_parse_workers), PlainSerializer(_plain_workers)]


class Execution(BaseModel):
    """Where and how a trial runs: exactly what `resume` may change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workers: Annotated[
        Workers,
        Field(description="DDP workers per trial, or a range"),
        Shown(common=True, metavar="N[:M]"),
    ] = WorkerRange(1, 1)
    cpus_per_worker: Annotated[
        int | None, Field(ge=1, description="CPU cores per DDP worker"), Shown(default="what fits")
    ] = None
    device: Annotated[
        Literal["auto", "cpu", "gpu"], Field(description="what trials compute on"), Shown(common=True)
    ] = "auto"
    loader_workers: Annotated[
        int | None,
        Field(ge=0, description="loader processes per DDP worker"),
        Shown(default="0 on CPUs; on GPUs one less than the worker's cores, 1 to 16"),
    ] = None
    max_concurrent: Annotated[
        int | None, Field(ge=1, description="trials that run at a time"), Shown(default="what fits")
    ] = None
    max_failures: Annotated[int, Field(ge=0, description="restarts of a trial after lost workers")] = 3
    checkpoint_steps: Annotated[int, Field(ge=1, description="steps per checkpoint within an epoch")] = 500
    on_corrupt: Annotated[
        Literal["stop", "skip"], Field(description="what to do about images that do not decode; skip lists them")
    ] = "stop"
    cache_limit: Annotated[
        ByteSize | None,
        Field(ge=1, description="disk that a node gives to remote shards, such as 20GiB"),
        Shown(metavar="BYTES", default="32GiB, at most 80% of the free disk"),
    ] = None
    controller: Annotated[
        Literal["trial", "actor"],
        Field(description="where Ray Train's controller runs: in the trial's process, or in Ray's own actor"),
    ] = "trial"

    def worker_counts(self, global_batch: int) -> tuple[int, ...]:
        """The numbers of workers that a trial can have, ascending: those in range that share the batch equally.

        Of a trial that is not elastic it is the one number, whether or not it does.
        """
        fewest, most = self.workers
        if fewest == most:
            return (most,)
        return tuple(count for count in range(fewest, most + 1) if global_batch % count == 0)
