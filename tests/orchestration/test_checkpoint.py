"""A checkpoint holds everything that training needs, and nothing that could run code."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from effnet_cluster.effnet import EfficientNet, variant
from effnet_cluster.orchestration import checkpoint
from effnet_cluster.orchestration.checkpoint import Progress
from effnet_cluster.orchestration.errors import UserError
from effnet_cluster.orchestration.recipe import learning_rate, make_optimizer, seed_step_randomness, set_learning_rate
from effnet_cluster.orchestration.spec import Recipe

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=2, warmup_epochs=0.5)
STEPS = 4
FACTS = {"image_size": 32}


def fresh(seed: int) -> tuple[EfficientNet, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    network = EfficientNet(variant("b0", width=0.25, depth=0.25, num_classes=3))
    return network, make_optimizer(network, RECIPE, CPU)


def train(network: nn.Module, optimizer: torch.optim.Optimizer, epoch: int) -> None:
    """An epoch of a few steps with dropout and stochastic depth on."""
    seed_step_randomness(0, epoch, 0)
    network.train()
    for number in range(STEPS):
        step = epoch * STEPS + number
        images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(step))
        set_learning_rate(optimizer, learning_rate(RECIPE, step, STEPS))
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(network(images), torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()


def same_bits(first: nn.Module, second: nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_training_from_a_checkpoint_equals_uninterrupted_training_bit_for_bit(tmp_path: Path) -> None:
    network, optimizer = fresh(0)
    train(network, optimizer, 0)
    progress = Progress(1, 0.5, 0)
    checkpoint.save(tmp_path, network, optimizer, progress, "abc", FACTS)
    train(network, optimizer, 1)

    other, other_optimizer = fresh(1)
    assert checkpoint.restore(checkpoint.read(tmp_path, "abc", CPU), other, other_optimizer) == progress
    assert not same_bits(other, network)
    train(other, other_optimizer, 1)
    assert same_bits(other, network)


def test_restoring_gives_back_model_and_optimizer_exactly(tmp_path: Path) -> None:
    network, optimizer = fresh(0)
    train(network, optimizer, 0)
    checkpoint.save(tmp_path, network, optimizer, Progress(), "abc", FACTS)
    other, other_optimizer = fresh(1)
    checkpoint.restore(checkpoint.read(tmp_path, "abc", CPU), other, other_optimizer)
    assert same_bits(other, network)
    before, after = optimizer.state_dict(), other_optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert after["state"].keys() == before["state"].keys() != set()
    for key, moments in before["state"].items():
        assert all(torch.equal(moments[name], after["state"][key][name]) for name in moments)


def test_the_optimizer_matters(tmp_path: Path) -> None:
    """Without its moments, continued training would differ: the bit-for-bit test can fail."""
    network, optimizer = fresh(0)
    train(network, optimizer, 0)
    other, other_optimizer = fresh(1)
    other.load_state_dict(network.state_dict())
    train(network, optimizer, 1)
    train(other, other_optimizer, 1)
    assert not same_bits(other, network)


def test_a_checkpoint_holds_plain_values_and_the_bare_networks_keys(tmp_path: Path) -> None:
    network, optimizer = fresh(0)
    checkpoint.save(tmp_path, network, optimizer, Progress(3, 0.25, 1), "abc", FACTS)
    (file,) = tmp_path.iterdir()
    state = torch.load(file, weights_only=True)
    assert state["model"].keys() == network.state_dict().keys()
    assert not [key for key in state["model"] if key.startswith(("module.", "network."))]
    EfficientNet(network.config).load_state_dict(state["model"])


def test_a_checkpoint_of_another_specification_or_format_is_refused(tmp_path: Path) -> None:
    network, optimizer = fresh(0)
    checkpoint.save(tmp_path, network, optimizer, Progress(), "abc", FACTS)
    with pytest.raises(UserError, match=r"written by another specification; submit under another --name$"):
        checkpoint.read(tmp_path, "abd", CPU)
    (file,) = tmp_path.iterdir()
    torch.save(torch.load(file, weights_only=True) | {"format": 0}, file)
    with pytest.raises(UserError, match="format 0 is not the"):
        checkpoint.read(tmp_path, "abc", CPU)


class _Attack:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("open('ran', 'w').close()",)


def test_a_checkpoint_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    network, optimizer = fresh(0)
    checkpoint.save(tmp_path, network, optimizer, Progress(), "abc", FACTS)
    (file,) = tmp_path.iterdir()
    torch.save(torch.load(file, weights_only=True) | {"progress": _Attack()}, file)
    with pytest.raises(Exception, match="weights_only"):
        checkpoint.read(tmp_path, "abc", CPU)
    assert not (tmp_path / "ran").exists()
