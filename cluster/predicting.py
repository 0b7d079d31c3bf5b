"""What a plan will take where it is submitted: the cluster's nodes, a probe of this machine, and the forecast."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from pydantic import ValidationError

from ..datasets import child_environment, shorten
from ..orchestration.errors import EngineError, UserError
from ..orchestration.forecast import Forecast
from ..orchestration.measurements import recalled, remember
from ..orchestration.plan import Plan
from ..orchestration.sizing.allocation import share_out
from ..orchestration.sizing.cost import CostModel
from ..orchestration.sizing.packing import Node
from ..orchestration.training.measured import Measurement, ProbeOrder
from .home import Home
from .jobs import GLIBC, nodes_at
from .ray_token import use_token
from .services import Services

_PROBE = "effnet_cluster.orchestration.training.probe"
_PROBE_S = 300
# Ray's own shares of a machine's memory: what it offers to actors.
_OFFERED = 0.7


@dataclass
class Predictor:
    """Predicts plans for one cluster.

    Attributes:
        home: where measurements are remembered.
        nodes: of the cluster.
        here: whether it is this machine alone, which a probe may measure.
        may_probe: whether a probe may be run for what is not remembered.
        problem: why the last probe gave nothing; empty if it did or none was run.
    """

    home: Home
    nodes: Sequence[Node]
    here: bool
    may_probe: bool
    problem: str = field(default="", init=False)

    @classmethod
    def at(cls, home: Home, address: str | None, may_probe: bool) -> Predictor:
        """For the cluster at an address, or for this machine.

        Raises:
            UserError: the address is none.
            EngineError: nothing answers there.
        """
        if address:
            return cls(home, nodes_at(address), False, may_probe)
        running = Services(home).running().get("ray")
        if running is not None:
            try:
                use_token()
                return cls(home, nodes_at(running.url), True, may_probe)
            except EngineError:  # it is starting, or ending
                pass
        return cls(home, [this_machine()], True, may_probe)

    def costs(self, plan: Plan) -> CostModel:
        """The model of a plan's costs. Raises `UserError` if a trial fits nowhere."""
        if not self.here:
            # Another machine's cores are measured there, by the driver.
            return recalled(plan, self.nodes, self.home.cache)[0].model_copy(update={"key": "", "measured": None})
        costs, order = recalled(plan, self.nodes, self.home.cache)
        if order is None or not self.may_probe or self.problem:
            return costs
        found = self._probe(order)
        return costs if found is None else remember(plan, costs, found, self.home.make().cache)

    def forecast(self, plan: Plan) -> Forecast:
        """What a plan will take. Raises `UserError` if a trial fits nowhere."""
        return Forecast.of(plan, share_out(self.nodes, plan.spec.execution, plan.typical, self.costs(plan)))

    def refusal(self, plan: Plan) -> str:
        """Why a plan cannot run on the cluster as it is now, in one line; empty if it can."""
        try:
            share_out(self.nodes, plan.spec.execution, plan.typical)
        except UserError as error:
            return str(error)
        return ""

    def basis(self, costs: CostModel) -> str:
        """What a prediction rests on, in a sentence."""
        if costs.measured is not None:
            learned = len(costs.measured.factors)
            corrected = f", corrected by {learned} finished trial{'s' * (learned > 1)}" if learned else ""
            return f"predicted from a probe of this machine{corrected}"
        why = "; the driver measures, and logs its own prediction" if not self.here else "; --probe measures"
        return f"predicted from multiply-adds alone, which may be several times off{self.problem or why}"

    def _probe(self, order: ProbeOrder) -> Measurement | None:
        environment = {**os.environ, **child_environment(), **GLIBC, "OMP_NUM_THREADS": str(order.cpus)}
        try:
            done = subprocess.run(
                [sys.executable, "-m", _PROBE],
                input=order.model_dump_json(),
                capture_output=True,
                text=True,
                timeout=_PROBE_S,
                env=environment,
                check=False,
            )
            return Measurement.model_validate_json(done.stdout.splitlines()[-1])
        except subprocess.TimeoutExpired:
            self.problem = f"; the probe took more than {_PROBE_S} s"
        except (IndexError, ValidationError):
            said = done.stderr.strip().splitlines() or ["no word"]
            self.problem = f"; the probe failed ({shorten(said[-1], 120)})"
        return None


def this_machine() -> Node:
    """What a Ray head that is started here will offer, without asking Ray."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        gpus = len([one for one in named.split(",") if one.strip() and one.strip() != "-1"])
    else:
        gpus = len([path for path in Path("/dev").glob("nvidia*") if path.name[len("nvidia") :].isdigit()])
    memory = int(psutil.virtual_memory().available * _OFFERED)
    return Node("here", "this machine", len(os.sched_getaffinity(0)), gpus, memory)
