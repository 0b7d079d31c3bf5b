"""Whole trainings on the device: they learn, go on elsewhere, are interrupted, fail with a message, run on ranks."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from ...datasets import open_dataset
from ...orchestration.training.collectives import evaluate, lone_rank
from ...orchestration.training.errors import NonFiniteLossError
from ...orchestration.training.loaders import make_loaders
from ...orchestration.training.precision import autocast
from ...orchestration.training.world import World
from .check import Check, require
from .jobs import epoch_metrics, make_job, saved_state, train
from .target import ENGINES, Target

_CPU = torch.device("cpu")
# Few steps of the digits: large batches.
_RECIPE = {"name": "small", "epochs": 2, "global_batch": 96, "precision": "float32"}
_TIMEOUT_S = 300


def checks() -> list[Check]:
    """Every check of whole trainings."""
    return [
        Check("training/learns-and-evaluates-as-the-cpu-does", _learns),
        Check("training/every-augmentation", _augmented),
        Check("training/float16", _float16),
        Check("training/from-device-to-cpu-and-back", _moves),
        Check("training/interrupted-equals-undisturbed", _interrupted),
        Check("training/loss-not-finite", _diverges),
        Check("ranks/launcher-with-one-rank", _launched),
        Check("ranks/two-on-one-device", _two_ranks),
        Check("ranks/two-on-one-device/sync-bn", _two_ranks_synchronised, cuda_only=True),
        Check("engines/submit", _submits, ENGINES, cuda_only=True),
    ]


def _learns(target: Target) -> str:
    """The loss falls, and the device's evaluation of the trained weights counts what the CPU's does."""

    job = make_job(target, "learns", _RECIPE | {"epochs": 3 if target.tiny else 8, "global_batch": 48})
    with lone_rank():
        parts = train(job, target.device).parts
        manifest = open_dataset(job.data, Path(job.cache_root))
        world = World(0, 1, 1, _CPU)
        _, val = make_loaders(job.trial, job.execution.model_copy(update={"loader_workers": 0}), manifest, 48, world)
        here = evaluate(parts.evaluated, val, target.device, autocast("float32", target.device))
        there = evaluate(parts.evaluated.to(_CPU), val, _CPU, autocast("float32", _CPU))
    first, last = (epoch_metrics(job)[at]["train/epoch_loss"] for at in (0, -1))
    require(last < first, f"training loss {first:.3f} in the first epoch, {last:.3f} in the last")
    for name in ("top1", "top5", "samples"):
        require(here[name] == there[name], f"{name} {here[name]} on {target.device}, {there[name]} on the CPU")
    return f"top-1 {here['top1']:.4f} of {here['samples']} images, as on the CPU; loss {first:.3f} to {last:.3f}"


def _augmented(target: Target) -> str:

    changes = {"policy": "trivial", "erasing": 0.2, "mixup": 0.2, "cutmix": 1.0, "ema": 0.9, "clip_grad": 1.0}
    job = make_job(target, "augmented", _RECIPE | changes | {"precision": "auto", "epochs": 1})
    with lone_rank():
        parts = train(job, target.device).parts
    return f"loss {epoch_metrics(job)[-1]['train/epoch_loss']:.3f} in {parts.precision}"


def _float16(target: Target) -> str:

    job = make_job(target, "float16", _RECIPE | {"precision": "float16"})
    with lone_rank():
        train(job, target.device)
    scale = saved_state(job)["scaler"]["scale"]
    first, last = (epoch_metrics(job)[at]["train/epoch_loss"] for at in (0, -1))
    require(last < first, f"training loss {first:.3f} in the first epoch, {last:.3f} in the last")
    return f"loss {first:.3f} to {last:.3f}, scale {scale:g}"


def _moves(target: Target) -> str:
    """Each epoch on the other one: device, CPU, device. What a checkpoint holds is what the next one starts with."""

    job = make_job(target, "moves", _RECIPE | {"optimizer": "adamw", "ema": 0.9})
    for epochs, device in zip(itertools.count(1), (target.device, _CPU, target.device)):
        recipe = job.trial.recipe.model_copy(update={"epochs": epochs})
        job = job.model_copy(update={"trial": job.trial.model_copy(update={"recipe": recipe})})
        with lone_rank():
            trainer = train(job, device)
        saved, network = saved_state(job), trainer.parts.network.state_dict()
        differing = [name for name, value in saved["model"].items() if not torch.equal(value, network[name].cpu())]
        require(not differing, f"epoch {epochs}: checkpoint and network differ in {', '.join(differing[:3])}")
    losses = [row["train/epoch_loss"] for row in epoch_metrics(job)]
    require(len(losses) == 3, f"{len(losses)} epochs instead of 3")
    require(losses[2] < losses[0], f"losses {losses}")
    return "losses " + ", ".join(f"{loss:.3f}" for loss in losses)


def _interrupted(target: Target) -> str:
    """Left in mid-epoch, again and again: bits and curves of the undisturbed training."""

    changes = _RECIPE | {"precision": "auto", "dropout": 0.2, "stochastic_depth": 0.2, "mixup": 0.2, "ema": 0.9}
    calm, disturbed = (make_job(target, name, changes, deterministic=True) for name in ("calm", "disturbed"))
    with lone_rank():
        train(calm, target.device)
        stops = 0
        while True:
            asked = itertools.count(1)
            trainer = train(disturbed, target.device, should_stop=lambda counter=asked: next(counter) % 7 == 0)  # type: ignore[misc]
            if trainer.progress.epoch == disturbed.trial.recipe.epochs:
                break
            stops += 1
            require(stops < 50, "50 stops and no end")
    torch.use_deterministic_algorithms(False)
    one, other = saved_state(calm), saved_state(disturbed)
    differing = [name for name, value in one["model"].items() if not torch.equal(value, other["model"][name])]
    require(not differing, f"after {stops} stops {len(differing)} tensors differ, such as {', '.join(differing[:3])}")
    for mine, theirs in zip(epoch_metrics(calm), epoch_metrics(disturbed), strict=True):
        for name in ("train/epoch_loss", "val/top1", "val/loss"):
            require(mine[name] == theirs[name], f"{name}: {mine[name]} undisturbed, {theirs[name]} after {stops} stops")
    return f"equal to the last bit after {stops} stops"


def _diverges(target: Target) -> str:

    job = make_job(target, "diverges", _RECIPE | {"optimizer": "sgd", "lr": 1e30, "warmup_epochs": 0.0})
    with lone_rank():
        try:
            train(job, target.device)
        except NonFiniteLossError as error:
            require("the loss is not finite at step" in str(error), str(error))
            return str(error).partition(" (")[0]
    require(False, "no error")
    return ""


def _launched(target: Target) -> str:
    """torchrun's launcher with one rank: NCCL on a GPU."""

    job = make_job(target, "launched", _RECIPE | {"epochs": 1})
    file = target.folder / "launched.json"
    file.write_text(job.model_dump_json())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    _run([*command, "-m", "effnet_cluster.orchestration.training", str(file)])
    require("model" in saved_state(job), "no checkpoint")
    return f"loss {epoch_metrics(job)[0]['train/epoch_loss']:.3f}"


def _two_ranks(target: Target, *, sync_bn: bool = False) -> str:
    """Two ranks of gloo on one device consume what one rank does, and end with equal weights."""

    name = "two-synchronised" if sync_bn else "two"
    job = make_job(target, name, _RECIPE | {"epochs": 1, "sync_bn": sync_bn}, workers=2)
    file = target.folder / f"{name}.json"
    file.write_text(job.model_dump_json())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    _run([*command, "-m", "effnet_cluster.benchmarks.gpu.rank", str(file), str(target.device)])
    (row,) = epoch_metrics(job)
    require(row["check/ranks_equal"] == 2, f"{row['check/ranks_equal']:.0f} ranks agree")
    return f"loss {row['train/epoch_loss']:.3f}, both ranks equal"


def _two_ranks_synchronised(target: Target) -> str:
    return _two_ranks(target, sync_bn=True)


def _submits(target: Target) -> str:
    """The command as a user gives it: Ray and MLflow on this machine."""
    home = target.folder / "home"
    env = {"EFFNET_CLUSTER_HOME": str(home), "EFFNET_CLUSTER_SUBMIT_PROBE": "false", "NO_COLOR": "1"}
    command = [sys.executable, "-c", "from effnet_cluster.cluster.cli import main; main()"]
    try:
        _run([*command, *("submit", "--variants", "b0", "--device", "gpu", "--epochs", "2", "--name", "check")], env)
        (listed,) = json.loads(_run([*command, "list", "--json"], env))
        return f"{listed['experiment']}: {listed['state']}"
    finally:
        _run([*command, "down", "--force"], env)


def _run(command: list[str], env: dict[str, str] | None = None) -> str:
    """What a command prints. Raises CheckError with the end of its errors if it fails."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_TIMEOUT_S, env={**os.environ, **(env or {})}, check=False
    )
    require(done.returncode == 0, f"exit {done.returncode}: {done.stderr[-1500:]}{done.stdout[-500:]}")
    return done.stdout
