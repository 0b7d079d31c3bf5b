"""Amounts with SI and IEC suffixes, and one line for what is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnet_cluster.cluster.quantities import parse_bytes, parse_count, show_bytes
from effnet_cluster.orchestration.errors import UserError


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("2G", 2_000_000_000),
        ("2g", 2_000_000_000),
        ("500M", 500_000_000),
        ("10.5M", 10_500_000),
        ("8.3G", 8_300_000_000),
        ("40k", 40_000),
        ("1T", 10**12),
        ("5300000", 5_300_000),
        (" 2 G ", 2_000_000_000),
        ("2e9", 2_000_000_000),
    ],
)
def test_counts_have_si_suffixes(text: str, number: int) -> None:
    assert parse_count(text, "--max-macs") == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("8GiB", 8 * 2**30),
        ("8gib", 8 * 2**30),
        ("8Gi", 8 * 2**30),
        ("8GB", 8 * 10**9),
        ("8G", 8 * 10**9),
        ("1.5MiB", 1_572_864),
        ("512KiB", 524_288),
        ("1kB", 1000),
        ("2TiB", 2 * 2**40),
        ("100B", 100),
        ("100", 100),
    ],
)
def test_bytes_tell_powers_of_1024_from_powers_of_1000(text: str, number: int) -> None:
    assert parse_bytes(text, "--max-memory") == number


@pytest.mark.parametrize(
    "text", ["", "G", "-1G", "8Q", "2GiB", "2GB", "2iG", "1,5M", "1_000", "nan", "inf", "0x10", "2 3"]
)
def test_what_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^--max-macs: cannot read '.*'; write a number such as 2G"):
        parse_count(text, "--max-macs")


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "8Q", "8iB", "8GiBs", "8 GiB free", "nan"])
def test_what_is_no_amount_of_memory_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^--max-memory: cannot read '.*'; write an amount such as 8GiB"):
        parse_bytes(text, "--max-memory")


@pytest.mark.parametrize("text", ["0", "0G", "0.5"])
def test_nothing_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is less than 1"):
        parse_count(text, "--max-macs")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (1023, "0.999 KiB"),
        (1024, "1 KiB"),
        (1_572_864, "1.5 MiB"),
        (999 * 1024, "999 KiB"),
        (1000 * 1024, "0.977 MiB"),
        (8 * 2**30, "8 GiB"),
        (5 * 2**50, "5120 TiB"),
    ],
)
def test_bytes_are_shown_short(number: int, text: str) -> None:
    assert show_bytes(number) == text


@given(st.integers(1, 10**17))
def test_what_is_shown_reads_back_within_its_digits(number: int) -> None:
    assert parse_bytes(show_bytes(number), "x") == pytest.approx(number, rel=6e-3)
