"""`ExperimentRequest`: what the command line hands to the driver, wherever that runs."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from .plan import Plan
from .sizing.cost import CostModel
from .spec import ExperimentSpec


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
