"""Shards built by Ray tasks are those that one process builds."""

from pathlib import Path

import pytest

from effnet_cluster.datasets import DataError, prepare
from effnet_cluster.orchestration.errors import EngineError
from effnet_cluster.orchestration.parallel import ray_tasks

from .conftest import cut_photos


@pytest.mark.e2e
def test_ray_gives_the_same_digest_and_the_same_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = cut_photos(tmp_path / "photos", (40, 60), 6)
    expected = prepare(photos, tmp_path / "serial", samples_per_shard=2)
    monkeypatch.chdir(tmp_path)
    with ray_tasks("local") as mapper:
        assert prepare("photos", Path("ray"), samples_per_shard=2, mapper=mapper).digest == expected.digest
        bad = next(photos.rglob("*.jpg"))
        bad.write_bytes(b"no image")
        with pytest.raises(DataError, match=rf"{bad.name}: not an image"):
            prepare(photos, tmp_path / "bad", samples_per_shard=2, mapper=mapper)


@pytest.mark.e2e
def test_no_cluster_at_an_address_is_one_line() -> None:
    with pytest.raises(EngineError, match=r"Ray at 127\.0\.0\.1:9: ") as caught, ray_tasks("127.0.0.1:9"):
        raise AssertionError("connected to nothing")
    assert "\n" not in str(caught.value)
