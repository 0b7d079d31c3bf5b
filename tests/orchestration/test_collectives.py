"""Collectives on real gloo process groups of 1, 2 and 3 ranks, against plain single-process computations."""

import io
import subprocess
import sys
import tarfile
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from effnet_cluster.datasets import EvalTransform, Manifest, receipt

from . import ranks
from .ranks import EVAL_BATCHES, WORLDS, WRAPPING

Results = dict[int, list[dict[str, Any]]]
several = pytest.mark.parametrize("world", WORLDS)
multiple = pytest.mark.parametrize("world", WORLDS[1:])


@pytest.fixture(scope="module")
def results(digits: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What every rank of every world saw: {world: [results of rank 0, of rank 1, …]}."""
    out = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, ranks.__file__, str(digits.root), str(out)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=180, cwd=out)
    assert run.returncode == 0, run.stderr
    return {w: [torch.load(out / f"{w}-{r}.pt", weights_only=True) for r in range(w)] for w in WORLDS}


@pytest.fixture(scope="module")
def expected(digits: Manifest) -> tuple[int, int, float, int]:
    """Top-1 hits, top-5 hits, summed cross-entropy and samples, one image at a time and counted with numpy."""
    model = ranks.small_model().eval()
    transform = EvalTransform(32, 36)
    top1, top5, loss, samples = 0, 0, 0.0, 0
    for path in sorted((digits.root / "val").glob("*.tar")):
        with tarfile.open(path) as tar:
            files = {m.name: file.read() for m in tar if (file := tar.extractfile(m)) is not None}
        for name in (name for name in files if name.endswith(".cls")):
            stem, label = name.removesuffix("cls"), int(files[name])
            image = next(data for other, data in files.items() if other.startswith(stem) and other != name)
            pixels = transform(Image.open(io.BytesIO(image)).convert("RGB"))
            with torch.inference_mode():
                logits = model(pixels[None])[0].numpy().astype(np.float64)
            rank = int((logits > logits[label]).sum())
            top1, top5, samples = top1 + (rank < 1), top5 + (rank < 5), samples + 1
            loss += float(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label])
    return top1, top5, loss, samples


@several
@pytest.mark.parametrize("batch", EVAL_BATCHES)
def test_evaluation_counts_exactly_what_one_process_counts(
    results: Results, expected: tuple[int, int, float, int], world: int, batch: int
) -> None:
    top1, top5, loss, samples = expected
    assert samples == 359
    assert samples % batch != 0
    assert 0 < top1 < top5 < samples  # a model that is always wrong or always right would hide a lot
    for rank in results[world]:
        found = rank["evaluation"][batch]
        assert (found["top1"], found["top5"], found["samples"]) == (top1 / samples, top5 / samples, samples)
        assert found["loss"] == pytest.approx(loss / samples, rel=1e-5)


@several
def test_floating_buffers_become_their_mean_and_the_rest_stays(results: Results, world: int) -> None:
    mean = torch.stack([ranks.buffers_of(rank) for rank in range(world)]).double().mean(0).float()
    for rank in results[world]:
        found = rank["averaging"]
        torch.testing.assert_close(found["mean"], mean)
        assert torch.equal(found["mean"], results[world][0]["averaging"]["mean"])
        assert found["batches"].item() == 7
        assert found["parameters_untouched"]


@several
def test_equal_ranks_agree(results: Results, world: int) -> None:
    assert [rank["agreement"]["equal"] for rank in results[world]] == [False] * world


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize(
    "change",
    [
        *("lowest bit", "middle bit", "sign bit", "swapped", "swapped between tensors"),
        *("a running variance", "a count of batches", "what is evaluated", "16 bits"),
    ],
)
def test_one_bit_or_a_swap_on_one_rank_is_refused_on_every_rank(results: Results, world: int, change: str) -> None:
    assert [rank["agreement"][change] for rank in results[world]] == [True] * world


@several
def test_integer_sums_wrap_modulo_2_to_the_64(results: Results, world: int) -> None:
    exact = [sum(WRAPPING[:world]), sum(range(world)), -world]
    wrapped = [(value + 2**63) % 2**64 - 2**63 for value in exact]
    assert world == 1 or wrapped != exact
    for rank in results[world]:
        assert rank["summing"].tolist() == wrapped


@several
def test_a_step_on_several_ranks_equals_the_step_on_the_whole_batch(results: Results, world: int) -> None:
    model = ranks.step_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ranks.take_step(model, model, *ranks.step_batch())
    whole = model.state_dict()
    moved = [(whole[name] - before[name]).abs().max().item() for name, _ in model.named_parameters()]
    assert min(moved) > 1e-4
    for rank in results[world]:
        found = rank["ddp_step"]
        assert found.keys() == whole.keys()
        for name in whole:
            torch.testing.assert_close(found[name], whole[name], rtol=1e-9, atol=1e-9)
            assert torch.equal(found[name], results[world][0]["ddp_step"][name])


@several
@pytest.mark.parametrize("way", ranks.WAYS)
def test_gradients_of_four_micro_batches_make_the_step_of_the_whole_batch(
    results: Results, world: int, way: str
) -> None:
    model = ranks.step_model()
    images, labels = ranks.step_batch()
    ranks.take_step(model, model, images, labels)
    whole = model.state_dict()
    losses = [rank["accumulating"][way]["loss"].item() for rank in results[world]]
    fresh = ranks.step_model()
    expected = torch.nn.functional.cross_entropy(fresh(images), labels, label_smoothing=0.1).item()
    assert sum(losses) / world == pytest.approx(expected, rel=1e-6)
    for rank in results[world]:
        for name, value in rank["accumulating"][way]["model"].items():
            torch.testing.assert_close(value, whole[name], rtol=1e-9, atol=1e-9)


@several
def test_an_epoch_adds_up_over_the_ranks_also_when_it_was_interrupted(results: Results, world: int) -> None:
    positions = np.arange(ranks.TALLY_STEPS * ranks.TALLY_BATCH)
    means = [np.mean([ranks.tally_loss(r, n) for r in range(world)]) for n in range(ranks.TALLY_STEPS)]
    for rank in results[world]:
        found = rank["tallying"]["whole"]
        assert found["receipt"] == receipt(positions, (positions * 5 + 2) % 97)
        assert found["samples"] == len(positions)
        assert found["loss_sum"] == pytest.approx(sum(means))
        assert [point[0] for point in found["points"]] == [103, 106]
        for (_, loss, lr), start in zip(found["points"], (0, 3), strict=True):
            assert loss == pytest.approx(np.mean(means[start : start + 3]))
            assert lr == 0.5
        assert found["bad"] is None
        assert rank["tallying"]["resumed"] == found, "not equal to the last bit"


@several
def test_every_rank_learns_of_the_first_loss_that_is_not_finite(results: Results, world: int) -> None:
    assert [rank["tallying"]["bad"] for rank in results[world]] == [5] * world


@several
def test_all_ranks_try_the_same_sizes_until_each_has_room(results: Results, world: int) -> None:
    tried = {1: [24], 2: [24, 12], 3: [24, 12, 6]}[world]
    assert [rank["probing"][0] for rank in results[world]] == [(tried, tried[-1])] * world
    *others, last = [rank["probing"][1] for rank in results[world]]
    assert last == ([24, 12, 6, 3, 1], f"no room on rank {world - 1}")
    assert others == [([24, 12, 6, 3, 1], "out of memory on another rank, with one image at a time")] * (world - 1)


@several
def test_all_ranks_learn_at_the_same_step_that_one_wants_to_leave(results: Results, world: int) -> None:
    noticed = 3 if world == 1 else 4
    assert [rank["voting"] for rank in results[world]] == [[n == noticed for n in range(10)]] * world


@several
def test_votes_between_which_steps_pass_are_counted_alike(results: Results, world: int) -> None:
    # Also how long that took, since all act on it at the same step.
    ((step, cast, seconds),) = {rank["voting_now_and_then"] for rank in results[world]}
    assert 0.002 * 30 < seconds < 60
    if world == 1:
        assert (step, cast) == (30, 0)
    else:
        assert 30 < step < 200
        assert 1 < cast < step / 2


@several
def test_one_rank_trains_the_bare_model_and_several_share_memory(results: Results, world: int) -> None:
    found = [rank["wrapping"] for rank in results[world]]
    assert [rank["bare"] for rank in found] == [world == 1] * world
    assert [rank["ddp"] for rank in found] == [world > 1] * world
    told = ["all ranks are on one node: gradients are averaged in shared memory"]
    assert [rank["logged"] for rank in found] == [told if world > 1 and rank == 0 else [] for rank in range(world)]


@multiple
def test_means_in_shared_memory_are_the_same_on_all_ranks(results: Results, world: int) -> None:
    first = results[world][0]["sharing"]
    assert len(first) == 3
    for turn, found in enumerate(first):
        given = [ranks.odd_gradients(rank, turn) for rank in range(world)]
        assert len(found) == len(given[0])
        for number, gradients in enumerate(zip(*given, strict=True)):
            # In the ranks' order, whatever bucket DDP has put the gradient into.
            assert torch.equal(found[number], sum(gradients[1:], gradients[0]) / world)
            for rank in results[world]:
                assert torch.equal(rank["sharing"][turn][number], found[number])


@several
def test_gradients_reduced_in_shared_memory_are_gloos(results: Results, world: int) -> None:
    first = results[world][0]["sharing_in_steps"]["training"]
    for rank in results[world]:
        found = rank["sharing_in_steps"]
        for shared, gloo, of_rank_0 in zip(found["training"], found["gloo"], first, strict=True):
            assert torch.equal(shared, of_rank_0)
            if world < 3:
                assert torch.equal(shared, gloo)
            torch.testing.assert_close(shared, gloo, rtol=1e-9, atol=1e-9)


@multiple
def test_ranks_share_memory_all_or_none(results: Results, world: int) -> None:
    assert [rank["sharing_refused"] for rank in results[world]] == [True] * world


@multiple
def test_ranks_are_told_in_their_backward_pass_that_one_has_gone(results: Results, world: int) -> None:
    *others, gone = [rank["sharing_with_one_gone"] for rank in results[world]]
    assert gone == "gone"
    for told, fault in others:
        assert "a rank on this node has gone or hangs: " in told
        assert fault == "lost"
