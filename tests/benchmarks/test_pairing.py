"""Contestants take turns, and ratios are of one round."""

import pytest

from effnet_cluster.benchmarks import pairing
from effnet_cluster.benchmarks.pairing import rate, ratio, take_turns


def test_each_is_called_once_a_round_and_no_one_always_leads() -> None:
    calls: list[str] = []
    seconds = take_turns({name: lambda name=name: calls.append(name) for name in "abc"}, rounds=6, warmup=2)
    rounds = [calls[start : start + 3] for start in range(0, len(calls), 3)]
    assert len(rounds) == 8
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert {names[0] for names in rounds[2:]} == {"a", "b", "c"}
    assert {name: len(times) for name, times in seconds.items()} == {"a": 6, "b": 6, "c": 6}


def test_no_round_begins_after_the_time_is_over_and_one_is_always_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0

    def wait() -> None:
        nonlocal clock
        clock += 1

    monkeypatch.setattr(pairing.time, "perf_counter", lambda: clock)
    contestants = {"a": wait, "b": wait}
    for budget_s, rounds in ((0.0, 1), (4.0, 1), (4.5, 2), (11.0, 5), (1e9, 6)):
        clock = 0.0
        seconds = take_turns(contestants, rounds=6, warmup=1, budget_s=budget_s)
        assert seconds == {"a": [1.0] * rounds, "b": [1.0] * rounds}


def test_every_call_is_announced() -> None:
    told: list[tuple[int, int, str]] = []
    called: list[str] = []
    contestants = {name: lambda name=name: called.append(name) for name in "ab"}
    take_turns(contestants, rounds=2, warmup=1, progress=lambda *news: told.append(news))
    assert [what for _, _, what in told] == called
    assert [(done, total) for done, total, _ in told] == [(number, 6) for number in range(6)]


def test_what_slows_a_whole_round_leaves_the_ratio_alone() -> None:
    found = ratio([1.0, 10.0, 2.0], [2.0, 20.0, 4.0])
    assert (found.low, found.median, found.high, found.rounds) == (2.0, 2.0, 2.0, 3)
    assert str(found) == "2.00 [2.00, 2.00]"


def test_the_middle_round_decides() -> None:
    found = ratio([1.0] * 5, [1.0, 2.0, 3.0, 4.0, 100.0])
    assert (found.low, found.median, found.high) == (2.0, 3.0, 4.0)
    assert rate(8, [1.0, 2.0, 100.0]) == 4.0


def test_one_round_has_no_spread() -> None:
    assert ratio([2.0], [1.0]).median == 0.5


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a contestant and a round"):
        take_turns({}, 1)
    with pytest.raises(ValueError, match="needs a contestant and a round"):
        take_turns({"a": lambda: None}, 0)
    with pytest.raises(ValueError, match="shorter"):
        ratio([1.0, 2.0], [1.0])
