"""`ExperimentRequest`: what the command line hands to the driver, wherever that runs, and what a report says of it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from .measurements import installed_version
from .plan import Plan
from .report.contents import Reported
from .sizing.cost import CostModel
from .spec import ExperimentSpec
from .studies.roles import asked
from .tracking.data_input import log_data
from .tracking.histories import read_histories
from .tracking.runs import Tracker
from .training.settings import params_of

_VERSIONS = ("effnet-cluster", "torch", "ray", "mlflow")


class ExperimentRequest(BaseModel):
    """A plan and the places that it uses.

    `uid` tells the experiment from others of its name, in MLflow and in the storage; `job` is the Ray job's id;
    `storage` is a folder or URL that every node sees; `cache_root` is a folder that each node has for itself. The JSON
    form is the content of the job's `experiment.json`; `costs` predicts what its trials take,
    and `probe` says that the driver shall measure what is missing for that; `local` says that the cluster is this
    machine's own Ray.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    uid: str
    job: str
    plan: Plan
    tracking_uri: str
    storage: str
    cache_root: str
    costs: CostModel = CostModel()
    probe: bool = False
    local: bool = False

    @property
    def spec(self) -> ExperimentSpec:
        """What the user said."""
        return self.plan.spec

    @property
    def trials_storage(self) -> str:
        """Where the trials have their folders."""
        return f"{self.storage}/trials"

    def storage_of(self, trial_id: str) -> str:
        """A trial's folder: its checkpoints and what lies beside them."""
        return f"{self.trials_storage}/{trial_id}"


def reported(request: ExperimentRequest, tracker: Tracker) -> Reported:
    """An experiment as a report shows it: what was asked, and what its trials have logged so far.

    Raises:
        EngineError: the tracking server cannot be reached or refuses.
        UserError: a run was logged by another version.
    """
    plan, spec = request.plan, request.spec
    # As they were asked for, so that the first variant and the first activation are the user's; others come last.
    places = {trial_id: place for place, trial_id in enumerate(plan.trials_by_id)}
    records = sorted(tracker.trials(), key=lambda record: places.get(record.trial_id, len(places)))
    return Reported(
        name=spec.name,
        state=str(tracker.sweep_outcome() or "not started"),
        records=records,
        histories=read_histories(tracker, records),
        planned=plan.trial_count,
        study=asked(spec.study, spec.variants) if spec.study else None,
        asked=_asked(plan),
        data=_data(plan),
        hardware=_hardware(request),
        data_name=_data_name(plan),
        settings={name: str(value) for name, value in params_of(spec).items()},
        spec_yaml=spec.to_yaml(),
        made_with={name: installed_version(name) for name in _VERSIONS} | {"digest of the manifest": plan.data_digest},
    )


def note_data(request: ExperimentRequest, tracker: Tracker, run_id: str) -> None:
    """Note with a run of the experiment, in MLflow's way, which data it uses.

    Raises:
        EngineError: the tracking server cannot be reached or refuses.
    """
    plan = request.plan
    sizes = {"train images": plan.train_samples, "val images": plan.val_samples, "classes": len(plan.classes)}
    log_data(tracker, run_id, _data_name(plan), plan.spec.data, plan.data_digest, sizes)


def _data_name(plan: Plan) -> str:
    return (plan.data_facts.name if plan.data_facts else None) or plan.spec.data


def _asked(plan: Plan) -> dict[str, str]:
    spec, scheduling = plan.spec, plan.spec.scheduling.name
    swept = {name: str(domain) for name, domain in spec.search.sweep.items()}
    by_variant = ", ".join(f"{name} {number}" for name, number in spec.variant_epochs.items())
    return {
        "trials": f"{plan.trial_count:,}",
        "variants": ", ".join(spec.variants),
        "activations": ", ".join(spec.activations),
        "shortcuts": ", ".join(spec.shortcuts),
        "seeds": ", ".join(map(str, spec.seeds)),
        "recipe": f"{spec.recipe.name}, {spec.recipe.epochs} epochs, global batch {spec.recipe.global_batch}",
        **({"epochs by variant": by_variant} if by_variant else {}),
        **{f"swept: {name}": values for name, values in swept.items()},
        **({"search": f"{spec.search.method}, for {', '.join(spec.search.objectives)}"} if swept else {}),
        **({"scheduler": scheduling} if scheduling != "none" else {}),
    }


def _data(plan: Plan) -> dict[str, str]:
    facts, classes = plan.data_facts, plan.classes
    listed = ", ".join(classes[:10]) + (", …" if len(classes) > 10 else "")
    return {
        "address": plan.spec.data,
        **({"median side": f"{facts.image_size} px"} if facts else {}),
        "images": f"{plan.train_samples:,} to train on, {plan.val_samples:,} to validate with",
        "classes": f"{len(classes):,}: {listed}",
        "digest": f"{plan.data_digest[:12]}…",
    }


def _hardware(request: ExperimentRequest) -> dict[str, str]:
    execution = request.spec.execution
    cores = execution.cpus_per_worker
    return {
        "cluster": "this machine's own Ray" if request.local else "a Ray cluster",
        "workers of a trial": str(execution.workers),
        "device": execution.device,
        **({"cores of a worker": str(cores)} if cores else {}),
        **({"measured on": request.costs.key} if request.costs.key else {}),
    }
