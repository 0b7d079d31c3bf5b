"""`Execution`: where and how a trial runs, as data. None of it changes what is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field

from .settings import Shown
from .workers import WorkerRange, Workers, workers_of


class Execution(BaseModel):
    """Where and how a trial runs: exactly what `resume` may change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workers: Annotated[
        Workers,
        Field(description="DDP workers: N, N:M, auto, b0=1,b7=8"),
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
    deterministic: Annotated[
        bool, Field(description="the same bits at every run on the same kind of GPU: slower; CPUs always do so")
    ] = False
    gradient_norms: Annotated[
        bool, Field(description="log the gradient's norm in each part of the network at every epoch's first step")
    ] = False
    fork_workers: Annotated[
        bool, Field(description="on this machine's own Ray, workers are copies of a process that has imported torch")
    ] = True
    controller: Annotated[
        Literal["trial", "actor"],
        Field(description="where Ray Train's controller runs: in the trial's process, or in Ray's own actor"),
    ] = "trial"

    def worker_counts(self, variant: str, global_batch: int) -> tuple[int, ...]:
        """The numbers of workers that a trial can have, ascending: those in range that share the batch equally.

        Of a trial that is not elastic it is the one number, whether or not it does. Where the cluster decides, it is
        every number that does.

        Raises:
            ValueError: `workers` says nothing about the variant.
        """
        span = workers_of(self.workers, variant)
        fewest, most = span or (1, global_batch)
        if span and fewest == most:
            return (most,)
        return tuple(count for count in range(fewest, most + 1) if global_batch % count == 0)
