"""Which failures are tried again, and how often."""

from __future__ import annotations

import pickle

import pytest
import ray.exceptions
import torch
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError

from effnet_cluster.datasets import DataError
from effnet_cluster.orchestration.errors import EngineError, UserError
from effnet_cluster.orchestration.faults import (
    Fault,
    FaultPolicy,
    GiveUp,
    Restart,
    classify,
    decisive,
)
from effnet_cluster.orchestration.training.errors import NonFiniteLossError, PreemptedError

PEER = RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234")
DEAD = WorkerHealthCheckFailedError("a worker is gone", ray.exceptions.RayActorError())
# As Ray 2.60 said it.
KILLED = (
    "3 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 127.0.0.1, …) was 7.22GB"
)


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (DEAD, Fault.LOST),
        (PEER, Fault.LOST),
        (torch.distributed.DistBackendError("NCCL communicator was aborted"), Fault.LOST),
        (EngineError("MLflow at http://…: no answer"), Fault.LOST),
        (torch.OutOfMemoryError("CUDA out of memory"), Fault.OUT_OF_MEMORY),
        (ray.exceptions.OutOfMemoryError("killed"), Fault.OUT_OF_MEMORY),
        (
            WorkerHealthCheckFailedError("gone", ray.exceptions.RayActorError(error_msg=KILLED)),
            Fault.OUT_OF_MEMORY,
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            Fault.OUT_OF_MEMORY,
        ),
        (MemoryError(), Fault.OUT_OF_MEMORY),
        (PreemptedError("asked to leave"), Fault.PREEMPTED),
        (NonFiniteLossError("nan"), Fault.FINAL),
        (UserError("--sync-bn needs GPUs"), Fault.FINAL),
        (DataError("shard 3"), Fault.FINAL),
        (RuntimeError("shapes cannot be multiplied"), Fault.FINAL),
        (KeyError("x"), Fault.FINAL),
    ],
)
def test_a_fault_is_known_by_its_exception_also_from_another_process(error: Exception, fault: Fault) -> None:
    wrapped = UserExceptionWithTraceback(error, "Traceback …")
    assert classify(error) is fault
    assert classify(wrapped) is fault
    assert classify(pickle.loads(pickle.dumps(wrapped))) is fault


def test_the_rank_that_failed_explains_its_peers() -> None:
    nan = NonFiniteLossError("nan")
    assert decisive({0: PEER, 1: UserExceptionWithTraceback(nan, "…"), 2: PEER}) == (Fault.FINAL, nan)
    assert decisive({0: PEER, 1: torch.OutOfMemoryError("x")})[0] is Fault.OUT_OF_MEMORY
    assert decisive({0: PEER, 1: DEAD})[0] is Fault.LOST
    assert decisive({0: PreemptedError("x"), 1: PEER})[0] is Fault.PREEMPTED


def test_lost_workers_are_replaced_up_to_the_limit() -> None:
    policy = FaultPolicy(2)
    assert [policy.decide(Fault.LOST, DEAD) for _ in range(2)] == [Restart(), Restart()]
    last = policy.decide(Fault.LOST, PEER)
    assert isinstance(last, GiveUp)
    assert last.reason.startswith("lost workers 3 times, more than --max-failures 2: ")
    assert isinstance(FaultPolicy(0).decide(Fault.LOST, DEAD), GiveUp)


def test_a_lack_of_memory_gets_half_the_micro_batch_once() -> None:
    policy = FaultPolicy(5)
    error = torch.OutOfMemoryError("CUDA out of memory")
    assert policy.decide(Fault.OUT_OF_MEMORY, error) == Restart(2)
    assert policy.decide(Fault.LOST, DEAD) == Restart(2), "what is too large stays too large"
    again = policy.decide(Fault.OUT_OF_MEMORY, error)
    assert isinstance(again, GiveUp)
    assert "--micro-batch" in again.reason


def test_leaving_on_request_never_uses_up_restarts() -> None:
    policy = FaultPolicy(0)
    assert [policy.decide(Fault.PREEMPTED, PreemptedError("x")) for _ in range(50)] == [Restart()] * 50


def test_an_error_that_would_come_again_ends_the_trial_with_its_line() -> None:
    error = ValueError("Traceback (most recent call last):\n  File …\nwhat went wrong\n")
    assert FaultPolicy(9).decide(Fault.FINAL, error) == GiveUp("what went wrong")
    assert FaultPolicy(9).decide(Fault.FINAL, KeyError()) == GiveUp("KeyError")
