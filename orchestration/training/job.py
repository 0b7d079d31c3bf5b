"""What is trained, as values with one JSON form: the plan of one trial, and the job that each of its ranks gets."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, PlainSerializer, PlainValidator

from ...effnet import BaselineConfig, EfficientNetConfig
from ...effnet.networks import NetworkConfig, config_from_dict
from .execution import Execution
from .recipes import Recipe


def _read_model(value: object) -> NetworkConfig:
    return value if isinstance(value, EfficientNetConfig | BaselineConfig) else config_from_dict(value)  # type: ignore[arg-type]


def _write_model(model: NetworkConfig) -> dict[str, Any]:
    return model.to_dict()


Model = Annotated[NetworkConfig, PlainValidator(_read_model), PlainSerializer(_write_model, return_type=dict)]


# Fields of a trial that follow from the others, or only name it.
_DESCRIBING = dict.fromkeys(("trial_id", "variant", "swept", "params", "macs"), True)


class TrialPlan(BaseModel):
    """One trial: a model trained once, as one DDP job.

    `image_size` and `eval_resize` are in pixels; `min_crop` is the smallest part of an image's area that a training
    crop may show; `macs` are multiply-adds per image at `image_size`; `shuffle_block` is the number of shards that are
    shuffled together; `swept` are the fields of its recipe in which the trials of its sweep differ. The order of
    samples follows from `seed`, `shuffle_block`, the recipe's `global_batch` and `tail`, and the manifest, whose digest
    the job names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    trial_id: str
    variant: str
    seed: int
    model: Model
    image_size: int
    eval_resize: int
    min_crop: float
    params: int
    macs: int
    batches_per_epoch: int
    shuffle_block: int
    recipe: Recipe
    swept: dict[str, bool | int | float | str | None] = {}

    @property
    def configuration(self) -> dict[str, bool | int | float | str | None]:
        """What tells the trial from the others of its sweep, flat: network, seed and swept fields."""
        return {
            "variant": self.variant,
            "activation": self.model.activation,
            "shortcut": self.model.shortcut,
            "seed": self.seed,
            **self.swept,
        }

    def digest(self, data_digest: str) -> str:
        """Names what is trained: a checkpoint of another digest is refused.

        The number of epochs is left out, so that a training can go on for more of them, and so are mere descriptions.

        Args:
            data_digest: of the data set's manifest.
        """
        fields = self.model_dump(mode="json", exclude={**_DESCRIBING, "recipe": {"epochs"}})
        content = json.dumps(fields, sort_keys=True) + data_digest
        return hashlib.sha256(content.encode()).hexdigest()[:16]


class TrainingJob(BaseModel):
    """All that a rank is told.

    `data` is a data set's address and `data_digest` what its manifest must be; `storage` is the trial's folder or URL,
    which every node sees; `cache_root` is a folder on the rank's own node; `micro_batch_divisor` makes micro-batches so
    many times smaller, after a rank ran out of memory; `goes_on_from` are digests of other trainings whose checkpoints
    it may take over.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    trial: TrialPlan
    execution: Execution
    data: str
    data_digest: str
    storage: str
    cache_root: str
    micro_batch_divisor: int = 1
    goes_on_from: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Names what is trained, see `TrialPlan.digest`."""
        return self.trial.digest(self.data_digest)
