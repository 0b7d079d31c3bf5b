"""Recipes: how a model is trained, as data. A named one is a set of defaults; every field can be overridden."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, model_validator

Probability = Annotated[float, Field(ge=0, lt=1)]


class Recipe(BaseModel):
    """How one model is trained. The defaults are the recipe `basic`, for short runs from scratch."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Annotated[str, Field(description="the named recipe that the other fields start from")] = "basic"
    epochs: Annotated[int, Field(ge=1, description="passes over the training images")] = 10
    global_batch: Annotated[int, Field(ge=1, description="images an optimizer step, over all workers")] = 32
    micro_batch: Annotated[int, Field(ge=1, description="most images at a time on a worker")] | None = None
    optimizer: Annotated[Literal["adamw", "sgd", "rmsprop"], Field(description="rmsprop as in TensorFlow")] = "adamw"
    lr: Annotated[float, Field(gt=0, description="peak learning rate")] = 4e-3
    lr_per: Annotated[int, Field(ge=1, description="images an lr is for, to scale it by the batch")] | None = None
    momentum: Annotated[Probability, Field(description="of sgd and rmsprop")] = 0.9
    alpha: Annotated[Probability, Field(description="decay of rmsprop's second moment")] = 0.9
    eps: Annotated[float, Field(gt=0, description="under rmsprop's root")] = 1e-3
    schedule: Annotated[Literal["cosine", "step"], Field(description="of the learning rate")] = "cosine"
    decay_rate: Annotated[float, Field(gt=0, le=1, description="of schedule step")] = 0.97
    decay_epochs: Annotated[float, Field(gt=0, description="of schedule step")] = 2.4
    warmup_epochs: Annotated[float, Field(ge=0, description="of linear warm-up")] = 1.0
    weight_decay: Annotated[float, Field(ge=0, description="not applied to norms and biases")] = 0.02
    clip_grad: Annotated[float, Field(gt=0, description="largest norm of the gradient")] | None = None
    ema: Annotated[Probability, Field(description="decay of the evaluated moving average; 0 is off")] = 0.0
    label_smoothing: Annotated[Probability, Field(description="share of the target given to all classes")] = 0.1
    dropout: Annotated[Probability, Field(description="before the classifier; default: by variant")] | None = None
    stochastic_depth: Annotated[Probability, Field(description="of the last block; default: 0.2")] | None = None
    # The paper's 0.01 (TensorFlow's 0.99) needs thousands of steps before the running statistics mean anything.
    bn_momentum: Annotated[float, Field(gt=0, le=1, description="of BatchNorm's statistics, as torch has it")] = 0.1
    dist_bn: Annotated[
        Literal["reduce", "broadcast"], Field(description="how the ranks' BatchNorm statistics become one each epoch")
    ] = "reduce"
    sync_bn: Annotated[bool, Field(description="BatchNorm over all ranks at every step (CUDA)")] = False
    tail: Annotated[Literal["drop", "carry"], Field(description="images at an epoch's end that fill no batch")] = "drop"
    augment: Annotated[bool, Field(description="random crops and flips")] = True
    policy: Annotated[Literal["none", "auto", "rand", "trivial"], Field(description="on top of crop and flip")] = "none"
    erasing: Annotated[float, Field(ge=0, le=1, description="chance that a rectangle is erased")] = 0.0
    mixup: Annotated[float, Field(ge=0, le=2, description="alpha; 0 is off")] = 0.0
    cutmix: Annotated[float, Field(ge=0, le=2, description="alpha; 0 is off")] = 0.0
    min_crop: (
        Annotated[
            float, Field(gt=0, le=1, description="smallest area of a training crop; default: 0.25, of small images 0.7")
        ]
        | None
    ) = None
    upsample: Annotated[float, Field(ge=0.25, le=8, description="factor on the size of images below 224 px")] = 1.0
    pretrained: Annotated[bool, Field(description="start from published ImageNet weights")] = False
    freeze_backbone: Annotated[bool, Field(description="train the classifier alone")] = False
    backbone_lr: Annotated[
        float, Field(gt=0, le=1, description="the stem's part of the learning rate; stages between fall geometrically")
    ] = 1.0
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], Field(description="of forward and backward pass")
    ] = "auto"
    compile: Annotated[bool, Field(description="torch.compile: minutes at first, then faster steps")] = False
    checkpoint_activations: Annotated[bool, Field(description="less memory for about a third more compute")] = False

    @property
    def peak_lr(self) -> float:
        """The learning rate after warm-up, at this global batch."""
        return self.lr * self.global_batch / self.lr_per if self.lr_per else self.lr

    def flat_fields(self) -> dict[str, Any]:
        """The fields that are set, beside those of other values: the recipe's own name is called `recipe`."""
        fields = self.model_dump(exclude_none=True)
        return {"recipe": fields.pop("name"), **fields}

    @model_validator(mode="before")
    @classmethod
    def _from_named(cls, fields: Any) -> Any:
        """A name alone, or fields of which `name` says what the others start from."""
        if isinstance(fields, str):
            fields = {"name": fields}
        if not isinstance(fields, Mapping):
            return fields
        name = fields.get("name", "basic")
        if name not in RECIPES:
            raise ValueError(f"unknown recipe {name!r}; choose from {', '.join(RECIPES)}")
        return {**RECIPES[name], **fields, "name": name}


# Tan and Le 2019, section 5.2, with the values of the reference implementation (tensorflow/tpu,
# models/official/efficientnet, `main.py`), whose global batch is 2048. Dropout and stochastic depth are the variants'.
_PAPER = {
    "epochs": 350,
    "global_batch": 2048,
    "optimizer": "rmsprop",
    "lr": 0.016,
    "lr_per": 256,
    "momentum": 0.9,
    "alpha": 0.9,
    "eps": 1e-3,
    "schedule": "step",
    "decay_rate": 0.97,
    "decay_epochs": 2.4,
    "warmup_epochs": 5.0,
    "weight_decay": 1e-5,
    "ema": 0.9999,
    "label_smoothing": 0.1,
    "bn_momentum": 0.01,
    "policy": "auto",
    "min_crop": 0.08,
}

# What has become usual since: AdamW (Loshchilov and Hutter 2019), TrivialAugment, mixup and CutMix in turns, random
# erasing, a cosine (compare torchvision's "new training recipe" and timm's).
_MODERN = {
    "epochs": 300,
    "global_batch": 1024,
    "optimizer": "adamw",
    "lr": 1e-3,
    "lr_per": 1024,
    "schedule": "cosine",
    "warmup_epochs": 5.0,
    "weight_decay": 0.05,
    "ema": 0.9999,
    "label_smoothing": 0.1,
    "policy": "trivial",
    "erasing": 0.1,
    "mixup": 0.2,
    "cutmix": 1.0,
    "min_crop": 0.08,
}

# The basic recipe at a quarter of its learning rate (tensorflow/tpu issue 476), less the nearer to the stem.
_TRANSFER = {
    "epochs": 10,
    "lr": 1e-3,
    "pretrained": True,
    "backbone_lr": 0.1,
    "ema": 0.99,
    "min_crop": 0.25,
}

# Digits and the like, a few dozen pixels in a few thousand images: the network's five strides of 2 leave one pixel of
# 32, so that images smaller than that are enlarged to it (`plan.scaled_resolution`); photos want `upsample` too. The
# average's window is 100 steps, two epochs of the digits.
_SMALL = {
    "epochs": 20,
    "lr": 4e-3,
    "ema": 0.99,
}

RECIPES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"basic": {}, "paper": _PAPER, "modern": _MODERN, "transfer": _TRANSFER, "small": _SMALL}
)
"""Name → the fields in which it differs from `basic`."""


class RecipeField(NamedTuple):
    """What a command line needs to know of a field; `default` is that of `basic`, None where it depends."""

    name: str
    kind: type
    choices: tuple[str, ...]
    description: str
    default: Any


def recipe_fields() -> list[RecipeField]:
    """The fields of a recipe, without its name."""
    fields = []
    for name, field in Recipe.model_fields.items():
        if name == "name":
            continue
        kind: Any = field.annotation
        notes = [field.description]
        while get_args(kind) and get_origin(kind) is not Literal:  # None and pydantic's limits are around the type
            notes += [note.description for note in getattr(kind, "__metadata__", ()) if hasattr(note, "description")]
            kind = next(part for part in get_args(kind) if part is not type(None))
        choices = tuple(map(str, get_args(kind)))
        description = next(note for note in notes if note)
        fields.append(RecipeField(name, str if choices else kind or str, choices, description, field.default))
    return fields
