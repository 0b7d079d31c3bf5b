"""Gradients of CPU ranks on one node, averaged in shared memory instead of over the loopback network.

Gloo passes every gradient through sockets and two threads a rank, DDP copies it into buckets first: both take their
time from the cores that train (docs/training.md has by how much). Here each rank averages the gradients of its part of
the parameters, from where the others put theirs, and all take the averages from there.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from .collectives import broadcast_object, smallest_over_ranks

# At a time: memory for all of a large network's gradient would often not be there.
_GROUP_BYTES = 32 * 2**20
_ALIGNMENT = 64
# As long as torch waits in a collective: one rank may have an evaluation or a checkpoint to do.
_TIMEOUT_S = 1800.0
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Place:
    """Where the gradient of parameter number `index` lies in every part of the memory, from byte `start` on, and the
    rank that averages it."""

    index: int
    start: int
    owner: int


def lay_out(sizes: Sequence[int], world_size: int, most: int = _GROUP_BYTES) -> list[list[Place]]:
    """Share out gradients of `sizes` bytes among the ranks, in groups of at most `most` bytes, or of one gradient."""
    groups: list[list[tuple[int, int]]] = []
    end = 0
    for index, size in enumerate(sizes):
        if not groups or end + size > most:
            groups.append([])
            end = 0
        groups[-1].append((index, end))
        end += _rounded_up(size, _ALIGNMENT)
    found = []
    for group in groups:
        whole = group[-1][1] + sizes[group[-1][0]]
        # By where its middle lies: the parts are as equal as whole gradients allow.
        found.append(
            [Place(i, at, min((2 * at + sizes[i]) * world_size // (2 * whole), world_size - 1)) for i, at in group]
        )
    return found


class _Group(NamedTuple):
    """Parameters whose gradients are averaged together: those that this rank averages, with where the others put their
    gradients, and those that others average, with where this rank puts its own; and with where the mean comes."""

    own: list[tuple[Tensor, list[Tensor], Tensor]]
    foreign: list[tuple[Tensor, Tensor, Tensor]]


class SharedAverage:
    """Averages the gradients of some parameters over the ranks of one node.

    The memory has a part for each rank, as large as a group of gradients, and one more. A rank puts its gradients of
    what others average into its own part; when all have, it puts the averages of its share into the last one; when all
    have, it takes the others'. So what is written is never what others still read.

    Args:
        parameters: the same ones on all ranks.
        layout: of their gradients, for `lay_out`'s number of ranks.
        memory: what the ranks share, bytes of shape (ranks + 1, bytes of a part).
        links: sockets, of rank 0 to every other rank, of these to rank 0.
        rank: of this process.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        layout: list[list[Place]],
        memory: Tensor,
        links: list[socket.socket],
        rank: int,
    ) -> None:
        self._links, self._rank, self._world_size = links, rank, len(memory) - 1
        self._groups = [_Group([], []) for _ in layout]
        for group, places in zip(self._groups, layout, strict=True):
            for place in places:
                parameter = parameters[place.index]
                *of_ranks, mean = (_like(parameter, part[place.start :]) for part in memory)
                given = of_ranks.pop(rank)
                if place.owner == rank:
                    group.own.append((parameter, of_ranks, mean))
                else:
                    group.foreign.append((parameter, given, mean))
        for link in links:
            link.settimeout(_TIMEOUT_S)

    @classmethod
    def connect(cls, parameters: Sequence[Tensor]) -> SharedAverage | None:
        """Join with all ranks of the default group, on each of them at once; None on all if any is on another node.

        Raises:
            DistNetworkError: a rank has gone meanwhile.
        """
        rank, world_size = dist.get_rank(), dist.get_world_size()
        sizes = [parameter.nbytes for parameter in parameters]
        layout = lay_out(sizes, world_size)
        part = _rounded_up(max(group[-1].start + sizes[group[-1].index] for group in layout), mmap.PAGESIZE)
        size = (world_size + 1) * part
        with contextlib.ExitStack() as stack:
            # Among the ranks' own files, which nobody else can open; whoever finds the socket there is on this node.
            offer = stack.enter_context(_offered(world_size, size)) if rank == 0 else None
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
            shared = torch.frombuffer(mmap.mmap(memory, size), dtype=torch.uint8).view(world_size + 1, part)
            return cls(parameters, layout, shared, links, rank)

    def __call__(self) -> None:
        """Replace every parameter's `grad` by its mean over the ranks, the same bits on each of them.

        Raises:
            DistNetworkError: a rank has gone, or did not come within half an hour.
            RuntimeError: a parameter has no gradient.
        """
        for group in self._groups:
            for parameter, given, _ in group.foreign:
                given.copy_(_gradient(parameter))
            self._meet()
            # One gradient after the other, while it is in the cache.
            for parameter, of_others, mean in group.own:
                gradient = _gradient(parameter)
                for other in of_others:
                    gradient.add_(other)
                gradient.div_(self._world_size)
                mean.copy_(gradient)
            self._meet()
            for parameter, _, mean in group.foreign:
                _gradient(parameter).copy_(mean)

    def close(self) -> None:
        """Leave; the other ranks notice when they average next."""
        for link in self._links:
            link.close()

    def _meet(self) -> None:
        """Wait until all ranks are here; what they wrote before is then visible, as the kernel passes the word."""
        # Rank 0 speaks last, for all; unless it has but one to speak to, who then need not wait for an answer.
        speaks_first = self._rank > 0 or len(self._links) == 1
        with _told_of_losses():
            if speaks_first:
                self._speak()
            for link in self._links:
                _receive(link)
            if not speaks_first:
                self._speak()

    def _speak(self) -> None:
        for link in self._links:
            link.send(b"!")


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
def _offered(world_size: int, size: int) -> Iterator[tuple[Path, socket.socket, int] | None]:
    """A listening socket's path, the socket, and `size` bytes to share; or None where this cannot be had."""
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="effnet-ranks-"))
            path = Path(folder, "socket")
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(path))
            listener.listen(world_size)
            memory = os.memfd_create("gradients")
            stack.callback(os.close, memory)
            os.posix_fallocate(memory, 0, size)
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


def _rounded_up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def _gradient(parameter: Tensor) -> Tensor:
    if parameter.grad is None:
        raise RuntimeError(f"a parameter of shape {tuple(parameter.shape)} has no gradient to average")
    return parameter.grad


def _like(parameter: Tensor, memory: Tensor) -> Tensor:
    """A tensor in `memory` (bytes) with the parameter's shape, type and order of values, as its gradient has them."""
    return memory[: parameter.nbytes].view(parameter.dtype).as_strided(parameter.size(), parameter.stride())
