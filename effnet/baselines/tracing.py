"""Writes ``facts.json``: runs torchvision's networks on torch's meta device, which computes shapes alone.

``python -m effnet_cluster.effnet.baselines.tracing > facts.json``, after an update of torchvision; takes a minute.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torchvision import models

from .building import on_meta_device

# A size at which no two levels of a network have the same edge by chance; a test counts at other sizes.
_EDGE = 331
_IMAGES = 3
_FLOAT_BYTES = 4
# No other layer has so many channels.
_CLASSES = 7
_WEIGHTS = "IMAGENET1K_V1"
# Ours by other names; those that take one size alone (transformers); one whose weights ImageNet alone has not made.
_LEFT_OUT = ("efficientnet_b", "mobilenet_v2", "resnet50", "maxvit", "swin", "vit", "regnet_y_128gf")
_ACTIVATIONS = {"ReLU": "relu", "SiLU": "silu", "GELU": "gelu", "Hardswish": "hardswish"}
# The argument's default, which no attribute of the network holds.
_STOCHASTIC_DEPTH = {
    "convnext_tiny": 0.1,
    "convnext_small": 0.4,
    "convnext_base": 0.5,
    "convnext_large": 0.5,
    "efficientnet_v2_s": 0.2,
    "efficientnet_v2_m": 0.2,
    "efficientnet_v2_l": 0.2,
}
_UNUSED = {"googlenet": ["aux1.", "aux2."], "inception_v3": ["AuxLogits."]}


def names() -> list[str]:
    """Torchvision's names of the baselines."""
    return [name for name in models.list_models(module=models) if not name.startswith(_LEFT_OUT)]


@dataclass
class _LevelTrace:
    """A level while it is traced; ``kept`` is in bytes of the whole batch."""

    edge: int
    parent: int | None = None
    window: list[int | bool] | None = None
    fixed: int | None = None
    operators: dict[str, None] = field(default_factory=dict)
    channels: int = 0
    layers: int = 0
    params: int = 0
    macs: int = 0
    kept: int = 0


class _Trace:
    """One forward pass in training mode, which also records what autograd keeps."""

    def __init__(self, name: str, classes: int, edge: int = _EDGE) -> None:
        self.network = on_meta_device(name, classes).train()
        self.levels = [_LevelTrace(edge, channels=3)]
        [(self.classifier, head)] = [
            (path, module)
            for path, module in self.network.named_modules()
            if classes in (getattr(module, "out_features", None), getattr(module, "out_channels", None))
        ]
        assert isinstance(head, nn.Linear | nn.Conv2d)
        self.head = head
        self._kept: list[Tensor] = []
        self._known = {parameter.untyped_storage()._cdata for parameter in self.network.parameters()}
        with ExitStack() as stack:
            for module in self.network.modules():
                if not list(module.children()) or list(module.parameters(recurse=False)):
                    stack.callback(module.register_forward_hook(self._after).remove)
            stack.enter_context(saved_tensors_hooks(self._keep, lambda tensor: tensor))
            self.network(torch.zeros(_IMAGES, 3, edge, edge, device="meta"))
        # Not before: what an operator keeps of its output is seen before the module that ends with it.
        for tensor in self._kept:
            self.levels[self._level_of(self._edge(tensor))].kept += tensor.untyped_storage().nbytes()
        self.head_level = self._level_of(self._head_edge)
        # The activation that follows a convolution as the last layer works in place and keeps its output.
        self.keeps_head = self._head_output in self._known

    def _after(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        before, after = self._edge(inputs[0]), self._edge(output)
        if after not in [level.edge for level in self.levels]:
            self._add(module, before, after)
        level = self.levels[self._level_of(after)]
        if module is self.head:
            self._head_edge, self._head_output = after, output.untyped_storage()._cdata
            level.operators.setdefault("FC")
            level.layers += 1
            return
        level.params += sum(parameter.numel() for parameter in module.parameters(recurse=False))
        if isinstance(module, nn.Conv2d | nn.Linear):
            level.layers += 1
            level.macs += module.weight.numel()
            level.channels = module.weight.shape[0]
            level.operators.setdefault(_operator(module))

    def _add(self, module: nn.Module, before: int, after: int) -> None:
        new = _LevelTrace(after)
        if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            new.parent = self._level_of(before)
            window = [_first(getattr(module, part, 1)) for part in ("kernel_size", "stride", "padding", "dilation")]
            new.window = [*window, bool(getattr(module, "ceil_mode", False))]
        else:
            new.fixed = after
        if not isinstance(module, nn.Conv2d):
            new.operators.setdefault("Pooling")
        self.levels.append(new)

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if tensor.dim() and tensor.shape[0] == _IMAGES and storage not in self._known:
            self._known.add(storage)
            self._kept.append(tensor.detach())  # kept alive, or a later one could have its address
        return tensor

    def _edge(self, tensor: Tensor) -> int:
        """The edge of a map, in whichever layout; 1 of vectors."""
        if tensor.dim() < 4:
            return 1
        known = [level.edge for level in self.levels]
        last = tensor.shape[1] == tensor.shape[2] in known and tensor.shape[-1] != tensor.shape[-2]
        return int(tensor.shape[1] if last else tensor.shape[-1])

    def _level_of(self, edge: int) -> int:
        edges = [level.edge for level in self.levels]
        if edge not in edges:
            assert edge == 1, f"nothing makes maps of {edge} px"
            self.levels.append(_LevelTrace(1, fixed=1, operators={"Pooling": None}))
            return len(self.levels) - 1
        return edges.index(edge)


def _first(value: int | tuple[int, ...]) -> int:
    return value[0] if isinstance(value, tuple) else value


def _operator(module: nn.Conv2d | nn.Linear) -> str:
    if isinstance(module, nn.Linear):
        return "FC"
    depthwise = "DW" if module.groups == module.in_channels else ""
    return f"{depthwise}Conv{'x'.join(map(str, module.kernel_size))}"


def trace(name: str) -> dict[str, Any]:
    """The entry of ``facts.json`` for one of torchvision's networks."""
    traced = _Trace(name, _CLASSES)
    network, head = traced.network, traced.head_level
    head_kept = _FLOAT_BYTES if traced.keeps_head else 0
    kinds = Counter(type(module).__name__ for module in network.modules())
    linears = [m.weight.numel() for path, m in network.named_modules() if isinstance(m, nn.Linear)]
    features = traced.head.weight.shape[1]
    rates = {module.p for module in network.modules() if isinstance(module, nn.Dropout)}
    assert len(rates) < 2
    levels: list[list[Any]] = []
    for number, level in enumerate(traced.levels):
        own = _per_position(level) - (_CLASSES * head_kept if number == head else 0)
        operator = " & ".join(level.operators) or "image"
        channels = level.channels or levels[-1][4]  # pooling keeps them
        row = [level.parent, level.window, level.fixed, operator, channels]
        levels.append([*row, level.layers, level.params, level.macs, own])
    return {
        "classifier": traced.classifier,
        "features": features,
        "head_level": head,
        "head_kept": head_kept,
        "activation": _activation(kinds),
        "dropout": next(iter(rates), None),
        "stochastic_depth": _STOCHASTIC_DEPTH.get(name),
        "batch_norm": kinds["BatchNorm2d"] > 0,
        "widest_linear": max((size for size in linears if size != features * _CLASSES), default=0),
        "unused": _UNUSED.get(name, []),
        "published": _published(name),
        "levels": levels,
    }


def _activation(kinds: Counter[str]) -> str:
    """The most frequent one; ReLU where there is none as a module, but as a function."""
    most = max(_ACTIVATIONS, key=lambda kind: kinds[kind])
    return _ACTIVATIONS[most] if kinds[most] else "relu"


def _per_position(level: _LevelTrace) -> int:
    bytes_each, rest = divmod(level.kept, _IMAGES * level.edge**2)
    assert rest == 0, f"{level.kept} bytes of {level.edge} px are not the same at every position"
    return bytes_each


def _published(name: str) -> dict[str, Any]:
    weights = models.get_model_weights(name)[_WEIGHTS]
    transform = weights.transforms()
    return {
        "file": weights.url.rpartition("/")[2].removesuffix(".pth"),
        "resize": transform.resize_size[0],
        "crop": transform.crop_size[0],
        "interpolation": transform.interpolation.value,
        "mean": transform.mean,
        "std": transform.std,
        "imagenet_top1": weights.meta["_metrics"]["ImageNet-1K"]["acc@1"],
    }


if __name__ == "__main__":
    rows = [f"{json.dumps(name)}: {json.dumps(trace(name))}" for name in names()]
    print("{\n" + ",\n".join(rows) + "\n}")
