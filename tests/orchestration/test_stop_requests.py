"""One trial is asked to end, from another process, through a real MLflow server."""

from __future__ import annotations

import threading
import time

import pytest

from effnet_cluster.orchestration.errors import EngineError, UserError
from effnet_cluster.orchestration.tracking.runs import Tracker
from effnet_cluster.orchestration.tracking.stop_requests import StopRequests, when_requested


@pytest.fixture
def elsewhere(tracker: Tracker) -> StopRequests:
    """As another process has it."""
    tracker.claim()
    return StopRequests(Tracker(tracker.uri, tracker.experiment, tracker.uid))


def test_a_request_is_seen_elsewhere_for_its_trial_alone_until_all_are_cleared(
    tracker: Tracker, elsewhere: StopRequests
) -> None:
    requests = StopRequests(tracker)
    assert not elsewhere.requested("a-b0-silu-s1")
    for _ in range(2):
        requests.request("a-b0-silu-s1")
    assert elsewhere.requested("a-b0-silu-s1")
    assert not elsewhere.requested("a-b0-silu-s10")
    assert not elsewhere.requested("a-b0-silu-s")
    requests.request("a-b0-silu-s10")
    assert elsewhere.all() == {"a-b0-silu-s1", "a-b0-silu-s10"}
    elsewhere.clear()
    assert requests.all() == frozenset()


def test_an_experiment_that_is_not_there_has_no_requests(tracker: Tracker) -> None:
    assert StopRequests(tracker).all() == frozenset()
    assert tracker._find_experiment() is None


class Server:
    """Requests on a server that is away at times."""

    def __init__(self, *answers: bool | Exception) -> None:
        self.answers, self.asked = list(answers), 0

    def requested(self, trial_id: str) -> bool:
        assert trial_id == "t"
        self.asked += 1
        answer = self.answers[min(self.asked, len(self.answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_a_request_is_acted_on_once_also_after_a_server_that_was_away() -> None:
    server = Server(False, EngineError("away"), UserError("another one"), True)
    called = threading.Event()
    calls: list[bool] = []
    with when_requested(server, "t", lambda: (calls.append(True), called.set()), 0.01) as asked:  # type: ignore[arg-type, func-returns-value]
        assert called.wait(10)
        assert asked.is_set()
        time.sleep(0.1)
    assert len(calls) == 1
    assert server.asked == 4


def test_nothing_is_asked_after_the_block_nor_called_without_a_request() -> None:
    server = Server(False)
    with when_requested(server, "t", lambda: pytest.fail("nobody asked"), 0.01) as asked:  # type: ignore[arg-type]
        time.sleep(0.1)
    assert not asked.is_set()
    assert server.asked > 1
    time.sleep(0.05)
    before = server.asked
    time.sleep(0.1)
    assert server.asked == before
