"""A checkpoint holds everything that training needs, and nothing that could run code."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from effnet_cluster.effnet import EfficientNet, variant
from effnet_cluster.orchestration.errors import UserError
from effnet_cluster.orchestration.training.checkpoint import (
    TrainingProgress,
    check_digest,
    decode,
    encode,
    read_weights,
    to_cpu,
)
from effnet_cluster.orchestration.training.collectives import local_buffers, set_local_buffers
from effnet_cluster.orchestration.training.optimizers import make_optimizer
from effnet_cluster.orchestration.training.randomness import seed_step_randomness
from effnet_cluster.orchestration.training.recipes import Recipe
from effnet_cluster.orchestration.training.schedules import learning_rate, set_learning_rate

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=2, warmup_epochs=0.5)
STEPS = 4


def fresh(seed: int) -> tuple[EfficientNet, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    network = EfficientNet(variant("b0", width=0.25, depth=0.25, num_classes=3))
    return network, make_optimizer(network, RECIPE, CPU)


def train(network: nn.Module, optimizer: torch.optim.Optimizer, epoch: int) -> None:
    """An epoch of a few steps with dropout and stochastic depth on."""
    network.train()
    for number in range(STEPS):
        step = epoch * STEPS + number
        seed_step_randomness(0, step, 0)
        images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(step))
        set_learning_rate(optimizer, learning_rate(RECIPE, step, STEPS))
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(network(images), torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()


def same_bits(first: nn.Module, second: nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def content(network: nn.Module, optimizer: torch.optim.Optimizer, **more: object) -> bytes:
    state = {
        "spec_digest": "abc",
        "progress": vars(TrainingProgress(1, 2, 0.5)),
        "facts": {"image_size": 32},
        "model": network.state_dict(),
        "ema": None,
        "optimizer": optimizer.state_dict(),
    }
    return encode(to_cpu(state | more))


def test_training_from_a_checkpoint_equals_uninterrupted_training_bit_for_bit() -> None:
    network, optimizer = fresh(0)
    train(network, optimizer, 0)
    saved = content(network, optimizer)
    train(network, optimizer, 1)

    other, other_optimizer = fresh(1)
    state = decode(saved, "here", CPU)
    assert TrainingProgress(**state["progress"]) == TrainingProgress(1, 2, 0.5)
    other.load_state_dict(state["model"])
    other_optimizer.load_state_dict(state["optimizer"])
    assert not same_bits(other, network)
    train(other, other_optimizer, 1)
    assert same_bits(other, network)


def test_the_optimizer_matters() -> None:
    """Without its moments, continued training would differ: the bit-for-bit test can fail."""
    network, optimizer = fresh(0)
    train(network, optimizer, 0)
    other, other_optimizer = fresh(1)
    other.load_state_dict(network.state_dict())
    train(network, optimizer, 1)
    train(other, other_optimizer, 1)
    assert not same_bits(other, network)


def test_a_copy_does_not_change_with_what_it_was_copied_from() -> None:
    network, optimizer = fresh(0)
    train(network, optimizer, 0)
    copied = to_cpu({"model": network.state_dict(), "optimizer": optimizer.state_dict(), "list": [network.stem]})
    before = {name: value.clone() for name, value in copied["model"].items()}
    train(network, optimizer, 1)
    assert all(torch.equal(copied["model"][name], value) for name, value in before.items())
    assert not torch.equal(copied["model"]["classifier.weight"], network.classifier.weight)


def test_a_checkpoint_holds_plain_values_and_the_bare_networks_keys(tmp_path: Path) -> None:
    network, optimizer = fresh(0)
    (tmp_path / "epoch-000001-batch-000000000.pt").write_bytes(content(network, optimizer))
    weights, facts = read_weights(tmp_path)
    assert facts == {"image_size": 32}
    assert not [key for key in weights if key.startswith(("module.", "network."))]
    EfficientNet(network.config).load_state_dict(weights)


def test_the_model_of_a_checkpoint_is_the_one_that_was_evaluated_and_the_latest(tmp_path: Path) -> None:
    network, optimizer = fresh(0)
    average, _ = fresh(1)
    (tmp_path / "epoch-000002-batch-000000000.pt").write_bytes(
        content(network, optimizer, ema={"updates": 1, "network": average.state_dict()})
    )
    (tmp_path / "epoch-000001-batch-000000000.pt").write_bytes(content(network, optimizer))
    assert torch.equal(read_weights(tmp_path)[0]["classifier.weight"], average.classifier.weight)


def test_a_checkpoint_of_another_specification_or_format_is_refused() -> None:
    saved = content(*fresh(0))
    with pytest.raises(
        UserError, match=r"^checkpoint here was written by another specification, or an earlier version; submit"
    ):
        check_digest(decode(saved, "here", CPU), ["abd"], "here")
    with pytest.raises(UserError, match=r"^there is no checkpoint in this version's format 3$"):
        decode(encode({"model": {}, "format": 0}), "there", CPU)
    with pytest.raises(UserError, match=r"^there is no checkpoint, or a damaged one"):
        decode(saved[: len(saved) // 2], "there", CPU)


class _Attack:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("open('ran', 'w').close()",)


def test_a_checkpoint_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="UnpicklingError"):
        decode(content(*fresh(0), progress=_Attack()), "here", CPU)
    assert not (tmp_path / "ran").exists()


def test_the_buffers_of_a_rank_come_back_exactly_and_nothing_else_changes() -> None:
    network, optimizer = fresh(0)
    train(network, optimizer, 0)
    own = local_buffers(network, network.stem)
    other, _ = fresh(1)
    weights = [p.clone() for p in other.parameters()]
    set_local_buffers(own, other, other.stem)
    for (name, value), (_, expected) in zip(other.named_buffers(), network.named_buffers(), strict=True):
        assert torch.equal(value, expected) or name.endswith("num_batches_tracked")
    assert all(torch.equal(a, b) for a, b in zip(weights, other.parameters(), strict=True))
