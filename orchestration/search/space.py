"""`Space`: every configuration that a trial of an experiment can have, and the ways to walk through it."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from .domains import Domain, Value

Configuration: TypeAlias = dict[str, Value]
"""A trial's flat configuration: variant, activation, shortcut and seed, and the swept fields of its recipe."""


Key: TypeAlias = tuple[Value, ...]


class Network(NamedTuple):
    """A variant with its activation function and its skip connections."""

    variant: str
    activation: str
    shortcut: str


@dataclass(frozen=True)
class Space:
    """Networks × swept fields × seeds.

    Attributes:
        networks: each once, in the order in which they are tried.
        sweep: the domain of each swept field.
        seeds: of the trials.
    """

    networks: tuple[Network, ...]
    sweep: Mapping[str, Domain]
    seeds: tuple[int, ...]

    @property
    def size(self) -> int | None:
        """How many different trials there are; None where a range of fractions is swept."""
        sizes = [domain.size for domain in self.sweep.values()]
        known = [size for size in sizes if size is not None]
        return len(self.networks) * math.prod(known) * len(self.seeds) if len(known) == len(sizes) else None

    def grid(self) -> Iterator[Configuration]:
        """Every combination, the seeds of each one after another. A range gives its two ends."""
        points = list(itertools.product(*(domain.ends for domain in self.sweep.values())))
        for network, point, seed in itertools.product(self.networks, points, self.seeds):
            yield self.configuration(network, dict(zip(self.sweep, point, strict=True)), seed)

    def draws(self, seed: int, used: set[Key] | None = None) -> Iterator[Configuration]:
        """Configurations at random, none twice, as long as there are others. The seeds are handed out in turn.

        Each is independent of how many are asked for: more trials begin with the same ones as fewer.

        Args:
            seed: of the draws, which follow from it alone.
            used: keys of configurations that are not wanted; those that are drawn are added.
        """
        chance = random.Random(seed)
        used = set() if used is None else used
        for number in itertools.count():
            if self.size is not None and len(used) >= self.size:
                return
            while True:
                # Only `random()` is promised to stay the same in all releases of Python.
                network = self.networks[int(chance.random() * len(self.networks))]
                point = {name: domain.at(chance.random()) for name, domain in self.sweep.items()}
                found = self.unused(network, point, number, used)
                if found is not None:
                    yield found
                    break

    def unused(self, network: Network, point: Mapping[str, Value], number: int, used: set[Key]) -> Configuration | None:
        """A point with the seed whose turn it is or, where that one was used, with the next; None if all were.

        Args:
            network, point: what is tried.
            number: how many trials came before.
            used: keys of the configurations that were used, to which that of the result is added.
        """
        for turn in range(len(self.seeds)):
            found = self.configuration(network, point, self.seeds[(number + turn) % len(self.seeds)])
            key = self.key(found)
            if key not in used:
                used.add(key)
                return found
        return None

    def key(self, configuration: Configuration) -> Key:
        """What tells a configuration of this space from the others."""
        return tuple(configuration[name] for name in (*Network._fields, *self.sweep, "seed"))

    def configuration(self, network: Network, point: Mapping[str, Value], seed: int) -> Configuration:
        """A trial's flat configuration. A field with one value alone is none that is swept."""
        return {**network._asdict(), "seed": seed, **point}
