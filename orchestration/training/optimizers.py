"""Optimizers of the recipes: what is decayed, at which learning rate, and RMSProp as TensorFlow has it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ...effnet import EfficientNet
from ...effnet.baselines.network import Baseline
from .recipes import Recipe


class RMSpropTF(Optimizer):
    """RMSProp in TensorFlow's form, with which the paper's networks were trained.

    It differs from `torch.optim.RMSprop` in three ways that change the training (tensorflow/tensorflow,
    `python/training/rmsprop.py` and `core/kernels/training_ops.cc`, ApplyRMSProp). The second moment starts at one
    instead of zero. Eps is added under the root. The learning rate goes into the momentum, so that steps taken at a
    higher rate keep it.

        moment = alpha * moment + (1 - alpha) * gradient²
        buffer = momentum * buffer + lr * gradient / sqrt(moment + eps)
        weight = weight - buffer

    Args:
        params: tensors or groups.
        lr: learning rate.
        alpha: decay of the second moment.
        eps: under the root.
        momentum: 0 is none.
        weight_decay: times the weight is added to its gradient (an L2 penalty), as in the reference.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        alpha: float = 0.9,
        eps: float = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "alpha": alpha, "eps": eps, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every tensor that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights:
                self._update(weights, [p.grad for p in weights if p.grad is not None], group)
        return loss

    def _update(self, weights: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        states = [self._state(weight) for weight in weights]
        moments = [state["square_avg"] for state in states]
        buffers = [state["momentum_buffer"] for state in states]
        if group["weight_decay"]:
            gradients = list(torch._foreach_add(gradients, weights, alpha=group["weight_decay"]))
        torch._foreach_mul_(moments, group["alpha"])
        torch._foreach_addcmul_(moments, gradients, gradients, value=1 - group["alpha"])
        roots = torch._foreach_add(moments, group["eps"])
        torch._foreach_sqrt_(roots)
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_addcdiv_(buffers, gradients, roots, value=group["lr"])
        torch._foreach_sub_(weights, buffers)

    def _state(self, weight: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[weight]
        if not state:
            state["square_avg"] = torch.ones_like(weight)
            state["momentum_buffer"] = torch.zeros_like(weight)
        return state


def make_optimizer(model: nn.Module, recipe: Recipe, device: torch.device) -> Optimizer:
    """The recipe's optimizer over the parameters that are trained.

    Weight decay applies to matrices and kernels only: norm scales, biases and learned activation slopes are vectors,
    and decaying them only hurts (the reference implementation; timm). Each group has an `lr_factor`, see
    `schedules.set_learning_rate`; the fused kernels update every tensor in one launch.
    """
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for factor, parameter in _with_factors(model, recipe):
        if parameter.requires_grad:
            decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((decay, factor), []).append(parameter)
    listed = [
        {"params": parameters, "weight_decay": decay, "lr_factor": factor}
        for (decay, factor), parameters in groups.items()
    ]
    fused = device.type in ("cuda", "cpu")
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(listed, lr=recipe.peak_lr, fused=fused)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            listed, lr=recipe.peak_lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0, fused=fused
        )
    return RMSpropTF(listed, recipe.peak_lr, recipe.alpha, recipe.eps, recipe.momentum)


def _with_factors(model: nn.Module, recipe: Recipe) -> Iterable[tuple[float, Tensor]]:
    """Each parameter with its factor on the learning rate: 1 in the classifier, `backbone_lr` in the stem.

    Between them it falls geometrically over the stages, and over the blocks of a baseline (Howard and Ruder 2018,
    section 3.2, for layers of a language model).
    """
    if recipe.backbone_lr == 1 or not isinstance(model, EfficientNet | Baseline):
        return [(1.0, parameter) for parameter in model.parameters()]
    parts = model.parts()
    last = len(parts) - 1
    return [
        (recipe.backbone_lr ** ((last - number) / last), parameter)
        for number, part in enumerate(parts)
        for module in part
        for parameter in module.parameters()
    ]
