"""Which failures are tried again, and how often."""

from __future__ import annotations

import errno
import pickle

import pytest
import ray.exceptions
import requests
import torch
from ray.train import ControllerError
from ray.train.v2._internal.exceptions import (
    UserExceptionWithTraceback,
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
)

from effnet_cluster.datasets import DataError
from effnet_cluster.datasets.errors import UnavailableError
from effnet_cluster.orchestration.errors import EngineError, UserError
from effnet_cluster.orchestration.running.faults import (
    Fault,
    FaultPolicy,
    GiveUp,
    Restart,
    cause,
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


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        # CUDA and its libraries
        (
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB",
            Fault.OUT_OF_MEMORY,
        ),
        ("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported", Fault.OUT_OF_MEMORY),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", Fault.OUT_OF_MEMORY),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", Fault.OUT_OF_MEMORY),
        (
            "NCCL error in: ProcessGroupNCCL.cpp:1970, unhandled cuda error\nLast error:\nCuda failure 'out of memory'",
            Fault.OUT_OF_MEMORY,
        ),
        ("CUDA error: uncorrectable ECC error encountered", Fault.LOST),
        ("CUDA error: unspecified launch failure", Fault.LOST),
        ("CUDA error: an illegal memory access was encountered", Fault.LOST),
        ("CUDA error: device-side assert triggered", Fault.FINAL),
        ("CUDA error: no kernel image is available for execution on the device", Fault.FINAL),
        ("CUDA error: invalid argument", Fault.FINAL),
        (
            "The NVIDIA driver on your system is too old; CUDA driver version is insufficient for CUDA runtime version",
            Fault.FINAL,
        ),
        # NCCL
        ("NCCL error in: NCCLUtils.hpp:275, unhandled system error (run with NCCL_DEBUG=INFO for details)", Fault.LOST),
        ("NCCL error in: NCCLUtils.hpp:275, remote process exited or there was a network error", Fault.LOST),
        ("[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, OpType=ALLREDUCE)", Fault.LOST),
        ("NCCL communicator was aborted on rank 1.", Fault.LOST),
        (
            "NCCL error in: NCCLUtils.hpp:275, invalid usage\nDuplicate GPU detected : rank 0 and 1",
            Fault.FINAL,
        ),
        # gloo
        ("[gloo/transport/tcp/pair.cc:547] Read error [10.0.0.2]:3453: Connection reset by peer", Fault.LOST),
        ("Gloo connectFullMesh failed with [gloo/transport/tcp/pair.cc:144] no error", Fault.LOST),
        ("[gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 1800000ms for recv operation", Fault.LOST),
        # the loader
        ("DataLoader worker (pid 4711) is killed by signal: Killed. ", Fault.LOST),
        ("DataLoader worker (pid(s) 4711, 4712) exited unexpectedly", Fault.LOST),
        (
            "DataLoader worker (pid 4711) is killed by signal: Bus error. It is possible that dataloader's workers "
            "are out of shared memory. Please try to raise your shared memory limit.",
            Fault.FINAL,
        ),
        # the CPU
        (
            "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
            "allocate 99 bytes. Error code 12 (Cannot allocate memory)",
            Fault.OUT_OF_MEMORY,
        ),
        # our own mistakes, and torch's complaints about them
        ("mat1 and mat2 shapes cannot be multiplied (32x1280 and 64x10)", Fault.FINAL),
        ("Error(s) in loading state_dict for EfficientNet: Missing key(s)", Fault.FINAL),
    ],
)
def test_what_the_libraries_say_decides(message: str, fault: Fault) -> None:
    assert classify(RuntimeError(message)) is fault


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        # pyarrow's file systems
        (
            OSError(
                "When uploading part for key 'a' in bucket 'b': AWS Error NETWORK_CONNECTION during UploadPart "
                "operation: curlCode: 28, Timeout was reached"
            ),
            Fault.LOST,
        ),
        (OSError("AWS Error SLOW_DOWN during PutObject operation: Please reduce your request rate."), Fault.LOST),
        (OSError("AWS Error SERVICE_UNAVAILABLE during HeadObject operation: No response body."), Fault.LOST),
        (OSError("AWS Error ACCESS_DENIED during PutObject operation: Access Denied."), Fault.FINAL),
        (OSError("AWS Error NO_SUCH_BUCKET during CreateMultipartUpload operation"), Fault.FINAL),
        # the system
        (OSError(errno.EIO, "Input/output error", "/mnt/nfs/x"), Fault.LOST),
        (OSError(errno.ESTALE, "Stale file handle", "/mnt/nfs/x"), Fault.LOST),
        (OSError(errno.ETIMEDOUT, "Connection timed out"), Fault.LOST),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), Fault.LOST),
        (TimeoutError(), Fault.LOST),
        (requests.ConnectionError("Max retries exceeded"), Fault.LOST),
        (requests.ReadTimeout("read timed out"), Fault.LOST),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), Fault.OUT_OF_MEMORY),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), Fault.FINAL),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), Fault.FINAL),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/x"), Fault.FINAL),
        # data sets far away
        (UnavailableError("http://x/1.tar: cannot be read (tried 8 times)"), Fault.LOST),
    ],
)
def test_what_may_pass_is_tried_again(error: Exception, fault: Fault) -> None:
    assert classify(error) is fault


@pytest.mark.parametrize(
    ("inner", "fault"),
    [
        (ray.exceptions.OutOfMemoryError(KILLED), Fault.OUT_OF_MEMORY),
        (ray.exceptions.RayActorError(), Fault.LOST),
        (WorkerGroupStartupTimeoutError(4), Fault.UNPLACED),
        (WorkerGroupStartupFailedError("a worker died while starting"), Fault.LOST),
        (ValueError("a bad configuration"), Fault.FINAL),
    ],
)
def test_a_failure_of_the_controller_is_the_one_within(inner: Exception, fault: Fault) -> None:
    wrapped = ControllerError(inner)
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


def test_waiting_for_room_never_uses_up_restarts() -> None:
    policy = FaultPolicy(0)
    assert [policy.decide(Fault.UNPLACED, WorkerGroupStartupTimeoutError(4)) for _ in range(50)] == [Restart()] * 50


def test_workers_that_are_lost_again_and_again_while_they_start_end_the_trial() -> None:
    policy = FaultPolicy(1)
    error = ControllerError(WorkerGroupStartupFailedError("a worker died while starting"))
    assert policy.decide(classify(error), cause(error)) == Restart()
    assert policy.decide(classify(error), cause(error)) == GiveUp(
        "lost workers 2 times, more than --max-failures 1: a worker died while starting"
    )


def test_leaving_on_request_never_uses_up_restarts() -> None:
    policy = FaultPolicy(0)
    assert [policy.decide(Fault.PREEMPTED, PreemptedError("x")) for _ in range(50)] == [Restart()] * 50


def test_an_error_that_would_come_again_ends_the_trial_with_its_line() -> None:
    error = ValueError("Traceback (most recent call last):\n  File …\nwhat went wrong\n")
    assert FaultPolicy(9).decide(Fault.FINAL, error) == GiveUp("what went wrong")
    assert FaultPolicy(9).decide(Fault.FINAL, KeyError()) == GiveUp("KeyError")
