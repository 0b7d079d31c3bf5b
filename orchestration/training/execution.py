"""`Execution`: where and how a trial runs, as data. None of it changes what is trained."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

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


Workers = Annotated[WorkerRange, BeforeValidator(_parse_workers), PlainSerializer(str, return_type=str)]


class Execution(BaseModel):
    """Where and how a trial runs: exactly what `resume` may change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workers: Annotated[Workers, Field(description="DDP workers per trial; '2:4' takes 2 to 4")] = WorkerRange(1, 1)
    cpus_per_worker: Annotated[int, Field(ge=1, description="CPU cores per worker")] | None = None
    device: Annotated[Literal["auto", "cpu", "gpu"], Field(description="what trials compute on")] = "auto"
    loader_workers: Annotated[int, Field(ge=0, description="loader processes per worker")] = 0
    max_concurrent: Annotated[int, Field(ge=1, description="trials at a time")] | None = None
    max_failures: Annotated[int, Field(ge=0, description="restarts of a trial after lost workers")] = 3
    checkpoint_steps: Annotated[int, Field(ge=1, description="steps between checkpoints within an epoch")] = 500
    on_corrupt: Annotated[Literal["stop", "skip"], Field(description="what to do about images that do not decode")] = (
        "stop"
    )
    cache_limit: Annotated[int, Field(ge=1, description="bytes of remote shards that a node keeps")] | None = None
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
