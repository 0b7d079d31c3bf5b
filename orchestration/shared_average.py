"""Gradients of CPU ranks on one node, averaged in shared memory instead of over the loopback network.

Gloo passes each gradient through sockets and two threads a rank, which take their time from the cores that train. In
shared memory, B0 at 32 px on two cores makes 1.1 times as many steps (docs/training.md). They are added in the order of
the ranks, however DDP cuts the gradient into buckets.
"""

# DDP wants to see the hook's own annotations: no `from __future__ import annotations` here.
import contextlib
import mmap
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from .distributed import broadcast_object, smallest_over_ranks

# At a time: memory for all of a large network's gradient would often not be there.
_CHUNK_BYTES = 8 * 2**20
# While some ranks still read the last chunk's average, others write the next chunk.
_TURNS = 2
# As long as torch waits in a collective: one rank may have an evaluation or a checkpoint to do.
_TIMEOUT_S = 1800.0
_CPU = torch.device("cpu")


def average_in_shared_memory(ddp: DistributedDataParallel) -> bool:
    """Have `ddp` reduce its gradients this way, if all ranks are on this node; a collective of the default group.

    Returns:
        whether they do; if not, nothing has changed.
    """
    average = SharedAverage.connect()
    if average is None:
        return False
    ddp.register_comm_hook(average, _reduce)
    return True


def _reduce(average: "SharedAverage", bucket: dist.GradBucket) -> Future[Tensor]:  # type: ignore[name-defined]
    average(bucket.buffer())
    done: Future[Tensor] = Future()
    done.set_result(bucket.buffer())
    return done


class SharedAverage:
    """Averages tensors over the ranks of one node.

    Args:
        links: sockets, of rank 0 to every other rank, of these to rank 0.
        memory: the file descriptor of what they share.
        rank: of this process, of `world_size`.
    """

    def __init__(self, links: list[socket.socket], memory: int, rank: int, world_size: int) -> None:
        self._links, self._rank, self._world_size = links, rank, world_size
        shared = torch.frombuffer(mmap.mmap(memory, _bytes(world_size)), dtype=torch.uint8)
        self._memory = shared.view(_TURNS, world_size, _CHUNK_BYTES)
        self._turn = 0
        for link in links:
            link.settimeout(_TIMEOUT_S)

    @classmethod
    def connect(cls) -> "SharedAverage | None":
        """Join with all ranks of the default group, on each of them at once; None on all if any is on another node.

        Raises:
            DistNetworkError: a rank has gone meanwhile.
        """
        rank, world_size = dist.get_rank(), dist.get_world_size()
        with contextlib.ExitStack() as stack:
            # Among the ranks' own files, which nobody else can open; whoever finds the socket there is on this node.
            offer = stack.enter_context(_offered(world_size)) if rank == 0 else None
            address = broadcast_object(str(offer[0]) if offer else "")
            link = _connected(address) if rank and address else None
            if not smallest_over_ranks(int(offer is not None or link is not None), _CPU):
                if link is not None:
                    link.close()
                return None
            with _told_of_losses():
                if offer is None:
                    assert link is not None
                    links, memory = [link], _received_file(link)
                    stack.callback(os.close, memory)
                else:
                    _, listener, memory = offer
                    links = [listener.accept()[0] for _ in range(world_size - 1)]
                    for peer in links:
                        socket.send_fds(peer, [b"!"], [memory])
            return cls(links, memory, rank, world_size)

    def __call__(self, values: Tensor) -> None:
        """Replace `values`, contiguous and of one size on all ranks, by their mean; each rank computes a part of it.

        Raises:
            DistNetworkError: a rank has gone, or did not come within half an hour.
        """
        for chunk in torch.split(values.view(-1), _CHUNK_BYTES // values.element_size()):
            held = self._memory[self._turn, :, : chunk.numel() * chunk.element_size()].view(chunk.dtype)
            self._turn = (self._turn + 1) % _TURNS
            held[self._rank].copy_(chunk)
            self._meet()
            bounds = [rank * chunk.numel() // self._world_size for rank in (self._rank, self._rank + 1)]
            mean, *others = held[:, slice(*bounds)]
            for other in others:
                mean.add_(other)
            mean.div_(self._world_size)
            self._meet()
            chunk.copy_(held[0])

    def close(self) -> None:
        """Leave; the other ranks notice at the next tensor."""
        for link in self._links:
            link.close()

    def _meet(self) -> None:
        """Wait until all ranks are here; what they wrote before is then visible, as the kernel passes the word."""
        with _told_of_losses():
            if self._rank == 0:
                for link in self._links:
                    _receive(link)
                for link in self._links:
                    link.send(b"!")
            else:
                self._links[0].send(b"!")
                _receive(self._links[0])


@contextlib.contextmanager
def _told_of_losses() -> Iterator[None]:
    """A socket's complaint as what torch would raise: that a peer has gone is worth another try, see `faults`."""
    try:
        yield
    except OSError as error:
        raise dist.DistNetworkError(f"a rank on this node has gone or hangs: {error}") from error


def _receive(link: socket.socket) -> None:
    if not link.recv(1):
        raise ConnectionError("it closed its connection")


def _received_file(link: socket.socket) -> int:
    _, files, *_ = socket.recv_fds(link, 1, 1)
    if not files:
        raise ConnectionError("it closed its connection")
    return files[0]


@contextlib.contextmanager
def _offered(world_size: int) -> Iterator[tuple[Path, socket.socket, int] | None]:
    """A listening socket's path, the socket, and memory for all ranks; or None where this cannot be had."""
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="effnet-ranks-"))
            path = Path(folder, "socket")
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(path))
            listener.listen(world_size)
            memory = os.memfd_create("gradients")
            stack.callback(os.close, memory)
            os.posix_fallocate(memory, 0, _bytes(world_size))
            offer = (path, listener, memory)
        except (OSError, AttributeError):  # not on Linux; a long TMPDIR; no memory
            offer = None
        yield offer


def _connected(address: str) -> socket.socket | None:
    link = socket.socket(socket.AF_UNIX)
    try:
        link.connect(address)
    except OSError:
        link.close()
        return None
    return link


def _bytes(world_size: int) -> int:
    return _TURNS * world_size * _CHUNK_BYTES
