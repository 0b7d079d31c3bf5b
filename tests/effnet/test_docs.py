"""docs/effnet.md names the whole public interface."""

import re
from pathlib import Path

import pytest

import effnet_cluster.effnet as effnet

PAGE = (Path(__file__).parents[2] / "docs" / "effnet.md").read_text()


def test_every_public_name_is_described() -> None:
    documented = set(re.findall(r"`(\w+)[(`]", "\n".join(line for line in PAGE.splitlines() if line.startswith("| `"))))
    assert set(effnet.__all__) <= documented


@pytest.mark.parametrize("name", effnet.__all__)
def test_every_public_name_has_a_docstring_with_its_errors_or_is_data(name: str) -> None:
    value = getattr(effnet, name)
    if callable(value):
        assert value.__doc__
        assert "Raises:" in value.__doc__ or isinstance(value, type)
