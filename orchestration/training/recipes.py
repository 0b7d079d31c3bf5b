"""Recipes: how a model is trained, as data. A named one is a set of defaults; every field can be overridden."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .settings import Shown

Probability = Annotated[float, Field(ge=0, lt=1)]
RecipeName = Literal["basic", "paper", "modern", "transfer", "small"]


class Recipe(BaseModel):
    """How one model is trained. The defaults are the recipe `basic`, for short runs from scratch."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Annotated[
        RecipeName,
        Field(description=f"defaults to start from: {', '.join(get_args(RecipeName))}"),
        Shown(name="recipe", common=True, metavar="NAME"),
    ] = "basic"
    epochs: Annotated[int, Field(ge=1, description="passes over the training images"), Shown(common=True)] = 10
    global_batch: Annotated[int, Field(ge=1, description="images per step, over all workers"), Shown(common=True)] = 32
    micro_batch: Annotated[
        int | None, Field(ge=1, description="most images per forward pass on a worker"), Shown(default="what fits")
    ] = None
    optimizer: Annotated[
        Literal["adamw", "sgd", "rmsprop"], Field(description="optimizer; rmsprop is in TensorFlow's form")
    ] = "adamw"
    lr: Annotated[float, Field(gt=0, description="peak learning rate"), Shown(common=True)] = 4e-3
    lr_per: Annotated[
        int | None,
        Field(ge=1, description="global batch that the learning rate is for; with another it is scaled in proportion"),
        Shown(default="no scaling"),
    ] = None
    momentum: Annotated[Probability, Field(description="momentum of sgd and rmsprop")] = 0.9
    alpha: Annotated[Probability, Field(description="decay of rmsprop's second moment")] = 0.9
    eps: Annotated[float, Field(gt=0, description="constant added under rmsprop's root")] = 1e-3
    schedule: Annotated[Literal["cosine", "step"], Field(description="how the learning rate falls after warm-up")] = (
        "cosine"
    )
    decay_rate: Annotated[float, Field(gt=0, le=1, description="factor per decay of the step schedule")] = 0.97
    decay_epochs: Annotated[float, Field(gt=0, description="epochs per decay of the step schedule")] = 2.4
    warmup_epochs: Annotated[float, Field(ge=0, description="epochs of linear warm-up")] = 1.0
    weight_decay: Annotated[float, Field(ge=0, description="weight decay, not applied to norms and biases")] = 0.02
    clip_grad: Annotated[
        float | None,
        Field(gt=0, description="largest norm of the gradient; longer ones are cut"),
        Shown(default="none"),
    ] = None
    ema: Annotated[
        Probability, Field(description="decay of the moving average of weights that is evaluated; 0 is off")
    ] = 0.0
    label_smoothing: Annotated[Probability, Field(description="share of the target given to all classes")] = 0.1
    dropout: Annotated[
        Probability | None, Field(description="dropout before the classifier"), Shown(default="by variant")
    ] = None
    stochastic_depth: Annotated[
        Probability | None, Field(description="chance that the last block is skipped"), Shown(default="by variant")
    ] = None
    # The paper's 0.01 (TensorFlow's 0.99) needs thousands of steps before the running statistics mean anything.
    bn_momentum: Annotated[
        float, Field(gt=0, le=1, description="momentum of BatchNorm's running statistics, as torch defines it")
    ] = 0.1
    dist_bn: Annotated[
        Literal["reduce", "broadcast"],
        Field(description="how the workers' BatchNorm statistics become one after an epoch: their mean, or rank 0's"),
    ] = "reduce"
    sync_bn: Annotated[bool, Field(description="BatchNorm over all workers at every step; needs CUDA")] = False
    tail: Annotated[
        Literal["drop", "carry"],
        Field(description="images at an epoch's end that fill no batch: left out, or carried into the next epoch"),
    ] = "drop"
    augment: Annotated[bool, Field(description="random crops and flips")] = True
    policy: Annotated[
        Literal["none", "auto", "rand", "trivial"], Field(description="augmentation policy on top of crops and flips")
    ] = "none"
    erasing: Annotated[float, Field(ge=0, le=1, description="chance that a rectangle of an image is erased")] = 0.0
    mixup: Annotated[float, Field(ge=0, le=2, description="alpha of mixup; 0 is off")] = 0.0
    cutmix: Annotated[float, Field(ge=0, le=2, description="alpha of CutMix; 0 is off")] = 0.0
    min_crop: Annotated[
        float | None,
        Field(gt=0, le=1, description="smallest share of an image's area that a training crop takes"),
        Shown(default="0.25; 0.7 of small images"),
    ] = None
    upsample: Annotated[float, Field(ge=0.25, le=8, description="factor on the size of images below 224 px")] = 1.0
    pretrained: Annotated[bool, Field(description="start from published ImageNet weights")] = False
    weights: Annotated[
        str | None,
        Field(
            min_length=1,
            description="start from weights in a file or a folder of checkpoints, at a URL, of EXPERIMENT/TRIAL, "
            "or of models:/NAME@champion",
        ),
        Shown(metavar="PLACE", default="random weights"),
    ] = None
    freeze_backbone: Annotated[bool, Field(description="train the classifier alone")] = False
    backbone_lr: Annotated[
        float,
        Field(
            gt=0, le=1, description="factor on the stem's learning rate; it grows geometrically to 1 over the stages"
        ),
    ] = 1.0
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        Field(description="number format of forward and backward pass"),
    ] = "auto"
    compile: Annotated[bool, Field(description="use torch.compile: minutes at first, then faster steps")] = False
    compile_mode: Annotated[
        Literal["default", "reduce-overhead"],
        Field(description="of torch.compile; reduce-overhead replays CUDA graphs, for small images"),
    ] = "default"
    checkpoint_activations: Annotated[
        bool, Field(description="recompute activations: less memory for about a third more compute")
    ] = False

    @property
    def peak_lr(self) -> float:
        """The learning rate after warm-up, at this global batch."""
        return self.lr * self.global_batch / self.lr_per if self.lr_per else self.lr

    @property
    def mixes(self) -> bool:
        """Whether images are mixed by mixup or CutMix."""
        return self.mixup > 0 or self.cutmix > 0

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.mixes and self.global_batch < 2:
            raise ValueError("mixup and cutmix take two images to mix; use a global_batch of at least 2")
        if self.pretrained and self.weights:
            raise ValueError("weights and pretrained are two starts; leave out one")
        if self.compile_mode != "default" and not self.compile:
            raise ValueError(f"compile_mode {self.compile_mode} does nothing without compile; add compile")
        return self

    @model_validator(mode="before")
    @classmethod
    def _from_named(cls, fields: Any) -> Any:
        """A name alone, or fields of which `name` says what the others start from."""
        if isinstance(fields, str):
            fields = {"name": fields}
        if not isinstance(fields, Mapping):
            return fields
        name = fields.get("name", "basic")
        if not isinstance(name, str) or name not in RECIPES:
            raise ValueError(f"unknown recipe {name!r}; choose from {', '.join(RECIPES)}")
        named = RECIPES[name]
        if fields.get("weights"):
            named = {**named, "pretrained": False}
        return {**named, **fields, "name": name}


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
# 32, so that images smaller than that are enlarged to it (`sizing.networks.scaled_resolution`); photos want `upsample`
# too. The average's window is 100 steps, two epochs of the digits.
_SMALL = {
    "epochs": 20,
    "lr": 4e-3,
    "ema": 0.99,
}

RECIPES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"basic": {}, "paper": _PAPER, "modern": _MODERN, "transfer": _TRANSFER, "small": _SMALL}
)
"""Name → the fields in which it differs from `basic`."""
