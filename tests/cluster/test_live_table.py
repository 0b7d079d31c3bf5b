"""Following an experiment: each change of a trial is told once, and the last look comes after the job's end."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from effnet_cluster.cluster import live_table
from effnet_cluster.cluster.live_table import follow, progress_table
from effnet_cluster.datasets import Manifest
from effnet_cluster.orchestration.errors import EngineError
from effnet_cluster.orchestration.plan import Plan, make_plan
from effnet_cluster.orchestration.report.over_seeds import arms_of
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.tracking.comparison import compare
from effnet_cluster.orchestration.tracking.records import Outcome, TrialRecord

FIRST, SECOND = "photos-b0-silu-s0", "photos-b0-silu-s1"


@pytest.fixture(scope="module")
def plan(shards: Manifest) -> Plan:
    recipe = {"global_batch": 4, "epochs": 2}
    return make_plan(ExperimentSpec.parse({"name": "x", "variants": "b0", "seeds": [0, 1], "recipe": recipe}), shards)


def trial(name: str, epochs: int = 0, outcome: Outcome = Outcome.RUNNING) -> TrialRecord:
    record = TrialRecord(
        *(
            name,
            f"run of {name}",
            outcome,
            "",
            None,
            "b0",
            "silu",
            "residual",
            0,
            32,
            1,
            1,
            4,
            None,
            "drop",
            2,
            "0" * 64,
        )
    )
    return replace(record, epochs_done=epochs, epoch_loss=0.5, top1=0.25) if epochs else record


@dataclass
class Engines:
    """A job that runs for as long as there are looks but the last, each of which finds these trials; None: no server.

    It is the experiment, its jobs and its tracker in one.
    """

    looks: list[Sequence[TrialRecord] | None]
    end: str = "SUCCEEDED"
    job: str = "x"
    asked: list[str] = field(default_factory=list)
    _last: Sequence[TrialRecord] = ()

    @property
    def tracker(self) -> Engines:
        return self

    def is_active(self, job: str) -> bool:
        self.asked.append(job)
        found = self.looks.pop(0)
        self._last = found or ()
        self.away = found is None
        return bool(self.looks)

    def status(self, job: str) -> str:
        assert not self.looks, "the job runs"
        return self.end

    def trials(self) -> Sequence[TrialRecord]:
        if self.away:
            raise EngineError("MLflow server http://x: no answer")
        return self._last

    def running_trials(self) -> Sequence[TrialRecord]:
        return [record for record in self.trials() if not record.outcome.is_terminal]

    def ended_trials(self, after: float) -> Sequence[TrialRecord]:
        return [record for record in self.trials() if record.outcome.is_terminal and (record.ended or 0) > after]

    def trial(self, run_id: str) -> TrialRecord:
        return next(record for record in self._last if record.run_id == run_id)


def followed(plan: Plan, engines: Engines, terminal: bool = False) -> tuple[bool, str]:
    out: Any = io.StringIO()
    engine: Any = engines
    return follow(engine, plan, engine, Console(file=out, force_terminal=terminal, width=160)), out.getvalue()


@pytest.fixture(autouse=True)
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds between looks, which nobody waits; a minute passes with each."""
    taken: list[float] = []
    clock = SimpleNamespace(sleep=taken.append, monotonic=lambda: 60.0 * len(taken))
    monkeypatch.setattr(live_table, "time", clock)
    return taken


def test_each_change_of_a_trial_is_one_line_and_the_last_comes_after_the_jobs_end(plan: Plan) -> None:
    engines = Engines(
        [
            [],
            [trial(FIRST)],
            [trial(FIRST)],
            [trial(FIRST, 1)],
            [trial(FIRST, 2, Outcome.COMPLETED), trial(SECOND)],
            [trial(FIRST, 2, Outcome.COMPLETED), trial(SECOND, 2, Outcome.FAILED)],
        ]
    )
    succeeded, said = followed(plan, engines)
    assert succeeded
    assert said.splitlines() == [
        f"{FIRST}  running  epoch 0/2",
        f"{FIRST}  running  epoch 1/2  loss 0.5000  val top-1 0.2500",
        f"{FIRST}  completed  epoch 2/2  loss 0.5000  val top-1 0.2500",
        f"{SECOND}  running  epoch 0/2",
        f"{SECOND}  failed  epoch 2/2  loss 0.5000  val top-1 0.2500",
    ]
    assert set(engines.asked) == {"x"}


@pytest.mark.parametrize("end", ["FAILED", "STOPPED"])
def test_a_job_that_did_not_succeed_is_told_as_such(plan: Plan, end: str) -> None:
    assert followed(plan, Engines([[trial(FIRST)]], end)) == (False, f"{FIRST}  running  epoch 0/2\n")


def test_a_server_that_is_away_is_told_once_and_the_trials_are_followed_again(plan: Plan) -> None:
    looks = [[trial(FIRST)], None, None, [trial(FIRST, 1)], None, [trial(FIRST, 2, Outcome.COMPLETED)]]
    succeeded, said = followed(plan, Engines(looks))
    assert succeeded
    away = "MLflow server http://x: no answer; the experiment goes on"
    lines = said.splitlines()
    assert [line == away for line in lines] == [False, True, False, True, False]
    assert [line.split()[3] for line in lines if line != away] == ["0/2", "1/2", "2/2"]


def test_a_server_that_is_away_at_the_jobs_end_is_an_error(plan: Plan) -> None:
    with pytest.raises(EngineError, match="no answer"):
        followed(plan, Engines([[trial(FIRST)], None]))


def test_on_a_terminal_a_table_shows_every_trial_of_the_plan(plan: Plan) -> None:
    succeeded, said = followed(plan, Engines([[], [trial(FIRST, 1)], [trial(FIRST, 2, Outcome.COMPLETED)]]), True)
    assert succeeded
    for words in (FIRST, SECOND, "x: 1 pending, 1 completed", "2/2", "0.2500", "completed"):
        assert words in said


def test_looks_become_rarer_and_never_too_rare(plan: Plan, naps: list[float]) -> None:
    followed(plan, Engines([[trial(FIRST)]] * 10))
    assert naps[0] == 2
    assert naps == sorted(naps)
    assert naps[-1] == 10
    assert len(naps) == 9  # none after the job's end


def test_of_a_thousand_trials_the_table_shows_those_that_run_and_counts_the_others(plan: Plan) -> None:
    many = [plan.trials[0].model_copy(update={"trial_id": f"t{number:04d}"}) for number in range(1000)]
    records = [trial(f"t{number:04d}", 2, Outcome.COMPLETED) for number in range(900)]
    records += [trial(f"t{number:04d}", 1) for number in range(900, 903)]
    records[5] = trial("t0005", 1, Outcome.FAILED)
    table = progress_table(plan.model_copy(update={"trials": tuple(many)}), records)
    shown = list(table.columns[0].cells)
    assert {"t0005", "t0900", "t0901", "t0902"} <= set(shown)
    assert len(shown) == 40
    assert shown == sorted(shown), "they are not in the order of the plan"
    assert table.title == "x: 97 pending, 3 running, 899 completed, 1 failed"


def test_swept_values_are_columns_of_every_table(shards: Manifest) -> None:
    fields = {"name": "x", "variants": "b0", "recipe": {"global_batch": "3,4", "epochs": "5,10", "lr": "1e-3,0.01"}}
    plan = make_plan(ExperimentSpec.parse(fields), shards)
    record = trial(plan.trials[0].trial_id, epochs=1)
    ended = replace(record, swept=plan.trials[0].swept, outcome=Outcome.COMPLETED, best_top1=0.25)
    tables = (
        live_table.plan_table(plan),
        live_table.progress_table(plan, [ended]),
        live_table.comparison_table(compare([ended])),
    )
    for table in tables:
        shown = {str(column.header): next(iter(column.cells)) for column in table.columns}
        assert (shown["epochs"], shown["global_batch"], shown["lr"]) == ("5", "3", "0.001")
    title = str(tables[0].title)
    assert "8 trials × 1 DDP workers, 5 to 10 epochs" in title
    assert title.endswith("up to 2 of them left out in every epoch, by global batch and tail")
    assert "front" not in {str(column.header) for column in tables[2].columns}
    fronted = live_table.comparison_table(compare([ended], ("top1", "macs")))
    assert [list(column.cells) for column in fronted.columns if column.header == "front"] == [["*"]]


def test_means_over_seeds_are_a_table_with_the_smallest_p_that_so_many_can_give() -> None:
    ended = replace(trial("b0", 2, Outcome.COMPLETED), best_top1=0.8)
    small = [replace(ended, seed=seed, best_top1=0.8 + seed / 100) for seed in range(3)]
    large = [replace(one, variant="b1", macs=2, best_top1=one.best_top1 + 0.05) for one in small]
    table = live_table.arms_table(arms_of({"x": [*small, *large]}))
    assert [column.header for column in table.columns] == (
        ["variant", "seeds", "mean ± sd", "95% interval", "to the first", "p"]
    )
    first, second = zip(*(column.cells for column in table.columns), strict=True)
    assert (first[0], first[1], first[2], *first[4:]) == ("b0", "3", "0.8100 ± 0.0100", "", "")
    assert (second[0], second[2], *second[4:]) == ("b1", "0.8600 ± 0.0100", "+0.0500", "0.25")
    assert "3 pairs give 0.25 at least" in str(table.caption)
    both = live_table.arms_table(arms_of({"x": small, "y": [replace(small[0], swept={"lr": 0.1})]}))
    assert [column.header for column in both.columns][:4] == ["experiment", "variant", "lr", "seeds"]
    assert not both.caption
