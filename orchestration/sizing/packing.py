"""Which waiting trial starts now: a pure function of what waits, what runs and the nodes, without Ray or a clock.

This is list scheduling of parallel jobs (Graham 1969) with one reservation (EASY backfilling, Lifka
1995). The reservation counts slots and trusts no predicted time: a backfilled trial that takes longer delays nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Node:
    """What a node offers: whole CPU cores, GPUs, and bytes of memory."""

    id: str
    address: str
    cpus: int
    gpus: int
    memory: int

    def room(self, cpus: int, use_gpu: bool) -> int:
        """How many workers of so many cores fit."""
        return min(self.cpus // cpus, self.gpus) if use_gpu else self.cpus // cpus

    def __str__(self) -> str:
        return f"{self.address} {self.cpus} cores" + (f" and {self.gpus} GPUs" if self.gpus else "")


@dataclass(frozen=True)
class Demand:
    """What a trial takes from its start to its end, all of it at once.

    Attributes:
        trial_id: the trial's.
        workers: DDP workers; those of an elastic trial are the most that it may take on this cluster.
        cpus, gpus, memory: whole cores, GPUs and bytes of each worker.
        own_memory: bytes of the trial's own process, on any one node.
        seconds: predicted, from its start to its end.
    """

    trial_id: str
    workers: int
    cpus: int
    gpus: int = 0
    memory: int = 0
    own_memory: int = 0
    seconds: float = 1.0

    @property
    def width(self) -> int:
        """GPUs of all workers, or their cores where they have no GPU."""
        return self.workers * (self.gpus or self.cpus)

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """All that says where it fits: two demands of one shape fit alike."""
        return self.workers, self.cpus, self.gpus, self.memory, self.own_memory


@dataclass(frozen=True)
class Placement:
    """Where a trial is: its number of workers by node, and the node of its own process."""

    workers: Mapping[str, int]
    host: str


@dataclass(frozen=True)
class Running:
    """A trial that runs. `ends` is its predicted end, on any scale that all of them share."""

    demand: Demand
    placement: Placement
    ends: float


@dataclass(frozen=True)
class Turn:
    """The turn of a trial that was first in line and did not fit: the place that is kept for it.

    Attributes:
        trial_id: whose turn it is, until it starts or no longer waits.
        placement: the place.
        before: the trials that ran when the turn came. The place is free once they have ended.
    """

    trial_id: str
    placement: Placement
    before: frozenset[str]


class Start(NamedTuple):
    """A trial that starts now, and where its workers have room."""

    demand: Demand
    placement: Placement


class Decision(NamedTuple):
    """What starts now, or None; and whose turn it is, to be handed to the next decision."""

    start: Start | None
    turn: Turn | None


class _Free(NamedTuple):
    cpus: int
    gpus: int
    memory: int

    def room(self, demand: Demand) -> int:
        """How many of the demand's workers fit."""
        room = self.cpus // demand.cpus
        if demand.gpus:
            room = min(room, self.gpus // demand.gpus)
        if demand.memory:
            room = min(room, self.memory // demand.memory)
        return max(0, min(room, demand.workers))


_Room = dict[str, _Free]


def place(demand: Demand, nodes: Iterable[Node]) -> Placement | None:
    """Where a trial fits on nodes that nothing else uses; None if it never will."""
    return _place(demand, _capacity(nodes))


def place_together(demands: Iterable[Demand], nodes: Iterable[Node]) -> list[Start]:
    """Those of the demands, in their order, that fit beside each other on empty nodes."""
    room, placed = _capacity(nodes), list[Start]()
    for demand in demands:
        found = _place(demand, room)
        if found is not None:
            placed.append(Start(demand, found))
            _take(room, demand, found)
    return placed


def line_up(waiting: Iterable[Demand], nodes: Iterable[Node]) -> list[Demand]:
    """The line: the longest first, where length decides the end; then the widest first, and of those the longest.

    Length decides for a trial that takes at least as long as all that waits, evenly shared out. For the others, wide
    ones in the middle of the line would cost the most: the cluster empties for each of them. Of trials of one width the
    longest comes first either way.
    """
    waiting, nodes = list(waiting), list(nodes)
    use_gpu = any(demand.gpus for demand in waiting)
    slots = max(1, sum(node.gpus if use_gpu else node.cpus for node in nodes))
    share = sum(demand.seconds * demand.width for demand in waiting) / slots

    def place_in_line(demand: Demand) -> tuple[bool, float, float]:
        if demand.seconds >= share:
            return False, -demand.seconds, -demand.width
        return True, -demand.width, -demand.seconds

    return sorted(waiting, key=place_in_line)


def next_to_start(
    waiting: Collection[Demand],
    running: Collection[Running],
    nodes: Sequence[Node],
    turn: Turn | None = None,
    most: int | None = None,
) -> Decision:
    """The trial that starts now, or none.

    The first in line starts if it fits. If not, its turn has come: a place is kept for it, and others start only
    outside of that. So it starts, at the latest, when all that ran at its turn has ended, however wrong the
    predictions are.
    A trial that does not fit on the nodes at all waits without a turn; the nodes may change.

    Args:
        waiting: not started, in any order.
        running: started and not ended.
        nodes: the cluster as it is now.
        turn: of the last decision.
        most: how many trials may run at a time; None: as many as fit.
    """
    total = _capacity(nodes)
    free = dict(total)
    for one in running:
        _take(free, one.demand, one.placement)
    line = line_up(waiting, nodes)
    first = next((demand for demand in line if turn and demand.trial_id == turn.trial_id), None)
    if turn is None or first is None or not _holds(total, first, turn.placement):
        turn = None
        fitting = dict[tuple[int, ...], bool]()
        first = next((demand for demand in line if _fits(demand, total, fitting)), None)
        if first is None:
            return Decision(None, None)
    slots = len(waiting) + len(running) if most is None else most
    if len(running) < slots:
        found = _place(first, free)
        if found is not None:
            return Decision(Start(first, found), None)
    turn = turn or _turn(first, running, free)
    if len(running) >= slots:
        return Decision(None, turn)
    # What is left for others: the room now, and the room once all that ran at the turn has ended, less the place kept.
    later = dict(total)
    _take(later, first, turn.placement)
    passed = [one for one in running if one.demand.trial_id not in turn.before]
    for one in passed:
        _take(later, one.demand, one.placement)
    if len(passed) + 2 > slots:
        return Decision(None, turn)
    both = {node: _Free(*(max(0, min(pair)) for pair in zip(free[node], later[node], strict=True))) for node in total}
    tried = set[tuple[int, ...]]()
    for demand in line:
        if demand is first or demand.shape in tried:
            continue
        tried.add(demand.shape)
        found = _place(demand, both)
        if found is not None:
            return Decision(Start(demand, found), turn)
    return Decision(None, turn)


def _capacity(nodes: Iterable[Node]) -> _Room:
    return {node.id: _Free(node.cpus, node.gpus, node.memory) for node in nodes}


def _fits(demand: Demand, total: _Room, known: dict[tuple[int, ...], bool]) -> bool:
    if demand.shape not in known:
        known[demand.shape] = _place(demand, total) is not None
    return known[demand.shape]


def _turn(first: Demand, running: Collection[Running], free: _Room) -> Turn:
    """The place that is predicted to be free first, as the running trials end one after the other."""
    before = frozenset(one.demand.trial_id for one in running)
    room = dict(free)
    for one in sorted(running, key=lambda one: one.ends):
        _take(room, one.demand, one.placement, -1)
        found = _place(first, room)
        if found is not None:
            return Turn(first.trial_id, found, before)
    found = _place(first, room)
    assert found is not None  # it fits on the empty cluster
    return Turn(first.trial_id, found, before)


def _holds(total: _Room, demand: Demand, placement: Placement) -> bool:
    """Whether the nodes of a placement are still there, and as large as it needs."""
    if not {*placement.workers, placement.host} <= total.keys():
        return False
    room = dict(total)
    _take(room, demand, placement)
    return all(min(free) >= 0 for free in room.values())


def _place(demand: Demand, room: _Room) -> Placement | None:
    """Where it fits: on one node if possible, the fullest of them; else on as few as possible."""
    rooms = {node: free.room(demand) for node, free in room.items()}
    if sum(rooms.values()) < demand.workers:
        return None
    if not demand.own_memory:
        return Placement(_spread(demand, rooms, room), next(iter(room)))
    # Its own process takes memory of some node, best of one that has most, and leaves its workers the rest.
    for host, free in sorted(room.items(), key=lambda item: -item[1].memory):
        rest = free.memory - demand.own_memory
        if rest < 0:
            break
        here = rooms | {host: _Free(free.cpus, free.gpus, rest).room(demand)}
        if sum(here.values()) >= demand.workers:
            return Placement(_spread(demand, here, room), host)
    return None


def _spread(demand: Demand, rooms: Mapping[str, int], room: _Room) -> dict[str, int]:
    whole = [node for node, count in rooms.items() if count >= demand.workers]
    if whole:
        return {min(whole, key=lambda node: (room[node].gpus, room[node].cpus)): demand.workers}
    left, chosen = demand.workers, dict[str, int]()
    for node in sorted(rooms, key=lambda node: -rooms[node]):
        taken = min(left, rooms[node])
        if taken:
            chosen[node] = taken
            left -= taken
    return chosen


def _take(room: _Room, demand: Demand, placement: Placement, sign: int = 1) -> None:
    """Take a trial's part of the room, or give it back. Parts of nodes that are gone count nowhere."""
    for node, workers in placement.workers.items():
        if node in room:
            cpus, gpus, memory = room[node]
            count = sign * workers
            room[node] = _Free(cpus - count * demand.cpus, gpus - count * demand.gpus, memory - count * demand.memory)
    if placement.host in room:
        free = room[placement.host]
        room[placement.host] = free._replace(memory=free.memory - sign * demand.own_memory)
