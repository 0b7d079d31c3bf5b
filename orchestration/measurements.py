"""What is remembered of probes and finished trials: a JSON file in a cache folder, by hardware, version and batch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import ValidationError

from ..datasets import locked, write_atomically
from .plan import Plan
from .sizing.allocation import Shares, share_out
from .sizing.cost import CostModel
from .sizing.packing import Node
from .tracking.records import Outcome, TrialRecord
from .training.execution import Execution
from .training.job import TrialPlan
from .training.measured import Measurement, ProbeOrder

FILE = "costs.json"
_CPU_INFO, _GPU_INFO = Path("/proc/cpuinfo"), Path("/proc/driver/nvidia/gpus")
# Measurements that are kept, the latest.
_KEPT = 200


class Measurements:
    """The measurements in a cache folder. A file that cannot be read holds none; it is written anew."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE

    def get(self, key: str) -> Measurement | None:
        """What is remembered of a setting, or None."""
        try:
            return Measurement.model_validate(self._read()[key])
        except (KeyError, ValidationError):
            return None

    def put(self, key: str, measured: Measurement) -> None:
        """Remember a measurement in place of the setting's former one. Raises `OSError`."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self._path.with_suffix(".lock")):
            known = self._read()
            known.pop(key, None)
            known[key] = measured.model_dump(mode="json")
            write_atomically(self._path, json.dumps(dict([*known.items()][-_KEPT:]), indent=1))

    def _read(self) -> dict[str, object]:
        try:
            found = json.loads(self._path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


def setting_key(trials: Sequence[TrialPlan], cpus: int, use_gpu: bool) -> str:
    """What a measurement holds for: this machine's hardware, the versions, the worker, and the shape of its work."""
    trial = min(trials, key=lambda trial: trial.macs)
    recipe = trial.recipe
    parts = [
        _gpu() if use_gpu else _cpu(),
        f"{cpus} cores",
        f"torch {installed_version('torch')}",
        f"effnet-cluster {installed_version('effnet-cluster')}",
        f"images of {trial.image_size / trial.model.resolution:.3g} of the paper's",
        f"batch {recipe.global_batch}",
        recipe.optimizer,
        recipe.precision,
        *(name for name in ("ema", "checkpoint_activations", "freeze_backbone", "compile") if getattr(recipe, name)),
    ]
    return ", ".join(parts)


def recalled(plan: Plan, nodes: Sequence[Node], folder: Path) -> tuple[CostModel, ProbeOrder | None]:
    """What is known here of the cost of a plan, and what a probe has yet to measure; None: nothing.

    Args:
        plan: what will run, on this kind of machine.
        nodes: of the cluster.
        folder: of what is remembered.

    Raises:
        UserError: a trial fits nowhere.
    """
    execution = plan.spec.execution
    blind = cost_model(plan)
    shares = share_out(nodes, execution, plan.examples, blind)
    key = setting_key(plan.examples, shares.cpus, shares.use_gpu)
    measured = Measurements(folder).get(key)
    order = _order(plan, shares, folder, measured)
    return cost_model(plan, key, measured if measured and measured.networks else None), order


def _order(plan: Plan, shares: Shares, folder: Path, known: Measurement | None) -> ProbeOrder | None:
    """What a probe has to measure besides what is known; None: nothing."""
    missing = (known or Measurement(use_gpu=shares.use_gpu, cpus=shares.cpus)).missing(plan.examples)
    if not missing:
        return None
    return ProbeOrder(
        trials=missing,
        execution=Execution(device=plan.spec.execution.device, cache_limit=plan.spec.execution.cache_limit),
        data=plan.spec.data,
        data_digest=plan.data_digest,
        cache_root=str(folder),
        cpus=shares.cpus,
        use_gpu=shares.use_gpu,
    )


def remember(plan: Plan, costs: CostModel, found: Measurement, folder: Path) -> CostModel:
    """The model with a probe's new networks, which are remembered; a full disk only forgets them."""
    known = Measurements(folder).get(costs.key)
    merged = found
    if known is not None:
        merged = known.model_copy(update={"networks": (*known.networks, *found.networks)})
    with suppress(OSError):
        Measurements(folder).put(costs.key, merged)
    return cost_model(plan, costs.key, merged)


def cost_model(plan: Plan, key: str = "", measured: Measurement | None = None) -> CostModel:
    """A model for the trials of a plan."""
    return CostModel(
        key=key,
        measured=measured,
        val_samples=plan.val_samples,
        loader_workers=plan.spec.execution.loader_workers,
    )


def _cpu() -> str:
    try:
        lines = _CPU_INFO.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "a CPU")


def _gpu() -> str:
    for found in sorted(_GPU_INFO.glob("*/information")):
        for line in found.read_text(errors="replace").splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    return "a GPU"


def installed_version(package: str) -> str:
    """The version of an installed package; `unknown` where it is not installed, as ours is not on a job's nodes."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def learn(records: Sequence[TrialRecord], plan: Plan, shares: Shares, folder: Path) -> Measurement | None:
    """Remember how far finished trials were from their prediction.

    Args:
        records: of trials that had not begun before; what was interrupted says little about time.
        plan: that was run.
        shares: what its trials got.
        folder: of what is remembered.

    Returns:
        What is now remembered; None if there was nothing to learn from or to learn for.
    """
    costs = shares.costs
    known = Measurements(folder).get(costs.key) or costs.measured
    if known is None or not costs.key:
        return None
    plain = replace(shares, costs=costs.uncorrected())
    trials = {trial.trial_id: trial for trial in plan.trials}
    factors, starts, ends = list[float](), list[float](), list[float]()
    for record in records:
        trial = trials.get(record.trial_id)
        if trial is None or record.outcome is not Outcome.COMPLETED or record.seconds <= 0:
            continue
        if not record.elapsed or not record.start_up:
            continue
        cost = plain.cost_of(trial)
        factor = record.seconds / (cost.steps * cost.step_seconds)
        factors.append(factor)
        starts.append(record.start_up)
        ends.append(max(0.0, record.elapsed - record.start_up - record.seconds - factor * cost.evaluation))
    if not factors:
        return None
    learned = known.learn(factors, starts, ends)
    with suppress(OSError):
        Measurements(folder).put(costs.key, learned)
    return learned
