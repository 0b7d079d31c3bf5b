"""Ray's token: made once, by Ray, and readable by nobody else afterwards."""

import os
from pathlib import Path

import pytest

from effnet_cluster.cluster.ray_token import ensure_token, use_token
from effnet_cluster.orchestration.errors import EngineError


def test_a_new_token_is_readable_by_its_user_alone(token: Path) -> None:
    assert not use_token()
    ensure_token()
    made = token.read_text()
    assert len(made) >= 32
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.parent.stat().st_mode & 0o077 == 0
    assert os.environ["RAY_AUTH_MODE"] == "token"
    ensure_token()
    assert token.read_text() == made


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620])
def test_a_token_that_others_can_read_or_write_is_closed(token: Path, mode: int) -> None:
    token.parent.mkdir()
    token.write_text("x" * 64)
    token.chmod(mode)
    ensure_token()
    assert token.read_text() == "x" * 64
    assert token.stat().st_mode & 0o777 == 0o600


def test_a_token_that_stays_open_to_others_is_told_in_one_line(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token.parent.mkdir()
    token.write_text("x" * 64)
    token.chmod(0o644)

    def refuse(self: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    with pytest.raises(EngineError, match=rf"^other users can read the token {token}, .*Operation not permitted$"):
        ensure_token()
