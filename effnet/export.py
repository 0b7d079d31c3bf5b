"""Deployable files: a PyTorch exported program (.pt2) or ONNX, written only after it has reproduced the module.

ONNX needs the packages of the extra ``export``; nothing of them is imported before a file is written.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from .validation import check_choice

Format = Literal["onnx", "pt2"]
FORMATS: tuple[Format, ...] = get_args(Format)
TOLERANCE = 1e-4
"""Accepted difference between the file's outputs and the module's, as ``export_model`` measures it."""
ONNX_OPSET = 20
"""ONNX operator set of the files; from 18 on Resize can filter before it shrinks, from 20 on Gelu is an operator."""


class ExportError(RuntimeError):
    """The file could not be made, or what was made computes something else; no file is left."""


@dataclass(frozen=True)
class Interface:
    """How a file is called.

    Attributes:
        input: name of the one input (ONNX).
        output: name of the one output (ONNX).
        dynamic: names of the input's dimensions that may have any size, by their index. The others are fixed.
        notes: JSON-safe facts to keep in the file: ONNX's ``metadata_props``, or the extra file ``notes.json``.
    """

    input: str = "images"
    output: str = "logits"
    dynamic: Mapping[int, str] = field(default_factory=lambda: {0: "batch"})
    notes: Mapping[str, Any] = field(default_factory=dict)


def export_model(
    module: nn.Module,
    path: Path,
    form: Format,
    inputs: Sequence[Tensor],
    interface: Interface,
    tolerance: float = TOLERANCE,
) -> float:
    """Write ``module`` to ``path`` and return the greatest difference between its outputs and the file's.

    The difference is absolute where an input's outputs are all within -1 and 1, and elsewhere relative to the greatest.

    Args:
        module: maps one tensor to one tensor; in eval mode, on the CPU.
        path: the file to write or replace.
        form: ``pt2`` (read with ``torch.export.load(path).module()``) or ``onnx``.
        inputs: the first shows the fixed dimensions and has at least 2 of each dynamic one (torch.export takes a 1 for
            a constant). The module and the file, read back, must agree on every one of them.
        interface: names and dynamic dimensions.
        tolerance: the greatest difference that is accepted.

    Raises:
        ValueError: the format is unknown, the module is in training mode, or the first input is too small.
        ImportError: the extra ``export`` is not installed.
        ExportError: the exporter refuses the module, or the file disagrees with it.
        OSError: the file cannot be written.
    """
    check_choice("format", form, FORMATS)
    if module.training:
        raise ValueError("the module is in training mode; call .eval() first")
    if any(inputs[0].shape[dimension] < 2 for dimension in interface.dynamic):
        shape = tuple(inputs[0].shape)
        raise ValueError(f"the first input must have at least 2 of each dynamic dimension, not {shape}")
    # Beside the goal, so that the last step is a rename and a file that fails the check never has the goal's name.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder, torch.no_grad(), _quiet():
        draft = Path(folder) / f"model.{form}"
        with _refused("the exporter refuses the model"):
            _WRITERS[form](_program(module, inputs[0], interface), draft, interface)
        difference = _difference(_READERS[form](draft, interface), module, inputs, tolerance)
        draft.replace(path)
    return difference


def _program(module: nn.Module, example: Tensor, interface: Interface) -> ExportedProgram:
    """Trace the module. AUTO leaves the bounds of the sizes to torch, which alone knows what the operators need."""
    dynamic = dict.fromkeys(interface.dynamic, torch.export.Dim.AUTO)
    return torch.export.export(module, (example,), dynamic_shapes=(dynamic,))


def _write_pt2(program: ExportedProgram, path: Path, interface: Interface) -> None:
    torch.export.save(program, path, extra_files={"notes.json": json.dumps(dict(interface.notes))})


def _write_onnx(program: ExportedProgram, path: Path, interface: Interface) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        import_module(package)  # the exporter would say the same over a page, after minutes
    onnx_program = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=ONNX_OPSET,
        input_names=[interface.input],
        output_names=[interface.output],
        dynamic_shapes=(dict(interface.dynamic),),  # only their names: the program's sizes are settled
        verbose=False,
    )
    assert onnx_program is not None  # it is None only where a path is given
    for name, value in interface.notes.items():
        onnx_program.model.metadata_props[name] = value if isinstance(value, str) else json.dumps(value)
    onnx_program.save(path, external_data=False)


def _read_pt2(path: Path, interface: Interface) -> Callable[[Tensor], Tensor]:
    loaded: Callable[[Tensor], Tensor] = torch.export.load(path).module()
    return loaded


def _read_onnx(path: Path, interface: Interface) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        (output,) = session.run([interface.output], {interface.input: images.numpy()})
        return torch.from_numpy(output)

    return run


_WRITERS: Mapping[Format, Callable[[ExportedProgram, Path, Interface], None]] = {
    "onnx": _write_onnx,
    "pt2": _write_pt2,
}
_READERS: Mapping[Format, Callable[[Path, Interface], Callable[[Tensor], Tensor]]] = {
    "onnx": _read_onnx,
    "pt2": _read_pt2,
}


def _difference(
    read_back: Callable[[Tensor], Tensor], module: nn.Module, inputs: Collection[Tensor], tolerance: float
) -> float:
    greatest = 0.0
    for images in inputs:
        shape = tuple(images.shape)
        expected = module(images)
        with _refused(f"the file refuses an input of shape {shape}"):
            actual = read_back(images)
        difference = float((actual - expected).abs().max() / expected.abs().max().clamp(min=1))
        greatest = max(greatest, difference)
        if not difference <= tolerance:  # also where it is nan
            raise ExportError(
                f"on an input of shape {shape} the file differs from the model by {difference:.3g}, "
                f"more than {tolerance:g}"
            )
    return greatest


@contextmanager
def _refused(what: str) -> Iterator[None]:
    """Turn the engines' many exceptions, whose texts run over pages, into one with the reason."""
    try:
        yield
    except (ImportError, OSError):
        raise
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        line = " ".join(str(cause).split())[:300]
        raise ExportError(f"{what}: {line or type(cause).__name__}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters warn of their own deprecated calls, which nobody who exports a model can change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
