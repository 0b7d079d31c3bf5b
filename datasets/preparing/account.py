"""The account of a source: where each of its files ended, as a sample, ignored, or damaged and skipped."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..files import write_atomically
from .names import printable

ACCOUNT_FILE = "account.json"


@dataclass(frozen=True)
class Account:
    """What became of every file that was seen: `seen` is always the sum of the rest.

    Attributes:
        samples: samples by split.
        ignored: the files that were left out, by the reason in a few words, such as "hidden".
        damaged: why each damaged file could not be used, by file; they were skipped.
        files_per_sample: of how many files a sample is made: 2 in a shard, where the label is one too.
        unit: what a file is called, in the plural.
    """

    samples: Mapping[str, int]
    ignored: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    damaged: Mapping[str, str] = field(default_factory=dict)
    files_per_sample: int = 1
    unit: str = "files"

    @property
    def left(self) -> int:
        """Number of files that are no sample."""
        return sum(map(len, self.ignored.values())) + len(self.damaged)

    @property
    def seen(self) -> int:
        """Number of all files."""
        return sum(self.samples.values()) * self.files_per_sample + self.left

    def line(self) -> str:
        """All numbers in one line."""
        by_split = ", ".join(f"{count:,} {split}" for split, count in self.samples.items())
        parts = [f"{sum(self.samples.values()):,} samples ({by_split})"]
        if self.ignored:
            by_kind = ", ".join(f"{len(files):,} {kind}" for kind, files in self.ignored.items())
            parts.append(f"{sum(map(len, self.ignored.values())):,} ignored ({by_kind})")
        if self.damaged:
            parts.append(f"{len(self.damaged):,} damaged and skipped")
        return f"{self.seen:,} {self.unit} seen: {', '.join(parts)}"

    def save(self, path: Path) -> None:
        """Write it to `path` as JSON, with the name of each file that is no sample."""
        document = {
            "unit": self.unit,
            "seen": self.seen,
            "files_per_sample": self.files_per_sample,
            "samples": dict(self.samples),
            "ignored": {kind: list(map(printable, files)) for kind, files in self.ignored.items()},
            "damaged": {printable(file): reason for file, reason in self.damaged.items()},
        }
        write_atomically(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
