"""Number formats: chosen by device."""

import pytest
import torch
from torch import nn

from effnet_cluster.orchestration.training import precision

CPU = torch.device("cpu")


def test_a_cpu_computes_in_float32_unless_asked() -> None:
    assert precision.choose_precision(CPU) == "float32"


@pytest.mark.parametrize(("supported", "expected"), [(True, "bfloat16"), (False, "float16")])
def test_cuda_computes_in_bfloat16_where_the_gpu_has_it(
    monkeypatch: pytest.MonkeyPatch, supported: bool, expected: str
) -> None:
    asked: list[bool] = []

    def is_supported(including_emulation: bool) -> bool:
        asked.append(including_emulation)
        return supported

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    assert precision.choose_precision(torch.device("cuda")) == expected
    assert asked == [False]


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_the_forward_pass_computes_in_the_format(name: precision.Precision) -> None:
    with precision.autocast(name, CPU):
        assert nn.Linear(4, 4)(torch.zeros(1, 4)).dtype == getattr(torch, name)
    assert precision.gradient_scaler(name, CPU).is_enabled() == (name == "float16")
