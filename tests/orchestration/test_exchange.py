"""Taking over another trial's checkpoints, interrupted at any moment."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from effnet_cluster.datasets import Manifest
from effnet_cluster.orchestration.errors import EngineError
from effnet_cluster.orchestration.plan import make_plan
from effnet_cluster.orchestration.request import ExperimentRequest
from effnet_cluster.orchestration.running import exchange as module
from effnet_cluster.orchestration.running.exchange import Exchange, Exchanges
from effnet_cluster.orchestration.running.trial import SweepContext, Trial
from effnet_cluster.orchestration.sizing.allocation import Shares
from effnet_cluster.orchestration.sizing.cost import CostModel
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.training.checkpoint_names import position_name
from effnet_cluster.orchestration.training.storage import Storage

OWN, WANTED = Exchange(0, "", "", {}), Exchange(0, "donor", "d1", {"lr": 0.1})


class Interrupted(Exception):
    """The process is lost here."""


class FailingStorage(Storage):
    """Is lost at its n-th change."""

    left = -1

    def _change(self) -> None:
        if self.left == 0:
            raise Interrupted
        self.left -= 1

    def write(self, name: str, content: bytes) -> None:
        self._change()
        super().write(name, content)

    def delete(self, name: str) -> None:
        self._change()
        super().delete(name)


def fill(storage: Storage, *positions: tuple[int, int]) -> dict[str, bytes]:
    for position in positions:
        storage.write(f"checkpoints/{position_name(*position)}", f"{storage.address}{position}".encode())
    return checkpoints(storage)


def checkpoints(storage: Storage) -> dict[str, bytes]:
    return {name: storage.read(f"checkpoints/{name}") for name in storage.names("checkpoints")}


def test_what_is_offered_are_the_checkpoints_at_ends_of_epochs(tmp_path: Path) -> None:
    donor, own = Storage(str(tmp_path / "donor")), Storage(str(tmp_path / "own"))
    given = fill(donor, (2, 0), (4, 0), (4, 7))
    fill(own, (1, 0), (5, 3))
    assert Exchanges(donor).offer(4) == 4
    fill(donor, (5, 0))  # the donor trains on
    done = Exchanges(own).take_over(donor, WANTED)
    assert (done.epoch, done.donor, done.done) == (4, "donor", True)
    assert checkpoints(own) == {name: given[name] for name in (position_name(2, 0), position_name(4, 0))}
    assert Exchanges(own).all() == [done]
    # Later ones replace what was offered before.
    donor.delete(f"checkpoints/{position_name(2, 0)}")
    assert Exchanges(donor).offer(5) == 5
    assert Exchanges(own).take_over(donor, WANTED).epoch == 5
    assert set(checkpoints(own)) == {position_name(4, 0), position_name(5, 0)}
    assert [exchange.epoch for exchange in Exchanges(own).all()] == [4, 5]


def test_a_trial_that_is_lost_at_any_moment_has_the_old_checkpoints_or_the_new_ones(tmp_path: Path) -> None:
    donor = Storage(str(tmp_path / "donor"))
    new = fill(donor, (3, 0), (4, 0))
    Exchanges(donor).offer(4)
    outcomes = []
    for number in range(100):
        own = FailingStorage(str(tmp_path / f"own-{number}"))
        old = fill(own, (1, 0), (5, 0), (5, 2))
        own.left = number
        try:
            Exchanges(own).take_over(donor, WANTED)
        except Interrupted:
            own.left = -1
            found = Exchanges(own).all()
            assert checkpoints(own) == (new if found else old)
            assert all(one.done and one.swept == WANTED.swept for one in found)
            outcomes.append(bool(found))
        else:
            break
    assert {False, True} == set(outcomes), "it was interrupted before and after"
    assert outcomes == sorted(outcomes)


def test_a_checkpoint_that_is_not_there_in_time_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WRITTEN_S", 0.1)
    donor = Storage(str(tmp_path / "donor"))
    fill(donor, (1, 0), (2, 7))
    with pytest.raises(EngineError, match="no checkpoint of epoch 2"):
        Exchanges(donor).offer(2)


def test_a_process_that_has_reported_nothing_offers_what_its_trial_has(digits: Manifest, tmp_path: Path) -> None:
    """Such as one that took over weights of the last epoch: there is nothing left for it to train."""
    spec = ExperimentSpec.parse(
        {"name": "x", "variants": "b0", "recipe": {"lr": "1e-3,3e-3"}, "scheduling": {"name": "pbt"}}
    )
    plan = make_plan(spec, digits)
    request = ExperimentRequest(
        uid="mine", job="x", plan=plan, tracking_uri="", storage=str(tmp_path), cache_root=str(tmp_path)
    )
    planned = plan.trials[0]
    trial = Trial.__new__(Trial)  # without Tune's own preparations
    trial._trial_info = SimpleNamespace(trial_name=planned.trial_id)
    trial.setup(planned.configuration, SweepContext(request, "", Shares((), spec.execution, CostModel(), 1, False)))
    storage = Storage(request.storage_of(planned.trial_id))
    given = fill(storage, (2, 0), (3, 5))
    assert trial.save_checkpoint("")["trial"] == planned.trial_id
    offered = {name: storage.read(f"offered/{name}") for name in storage.names("offered")}
    assert offered == {name: given[name] for name in (position_name(2, 0),)}
