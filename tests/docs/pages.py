"""The pages that users read, README.md and docs/*.md: their fenced blocks, and the code in their prose."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
NOT_RUN, PLANNED = "not run", "planned only"

# A comment in the line before a block of commands may mark it: `<!-- not run: REASON -->`.
_BLOCK = re.compile(r"^(?:<!-- ([^\n]*) -->\n)?```(\w*)( \S+)?\n(.*?)^```$", re.M | re.S)
_MARK = re.compile(rf"({NOT_RUN}|{PLANNED}): \S.*")
_SPAN = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block: the page that it is on, its language and, if it is marked, NOT_RUN or PLANNED."""

    page: str
    language: str
    mark: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The command lines of a block of bash, as they stand, but each in one line."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if shlex.split(line, comments=True)]


def blocks_of(page: str, text: str) -> list[Block]:
    """The fenced blocks of a page.

    Raises:
        ValueError: a fence has no language or no end, or a comment is no mark of a block of bash.
    """
    found = []
    for comment, language, _, content in _BLOCK.findall(text):
        if not language:
            raise ValueError(f"{page}: a block says no language: {content[:60]!r}")
        mark = _MARK.fullmatch(comment)
        if comment and not (mark and language == "bash"):
            raise ValueError(f"{page}: <!-- {comment} --> marks no block of bash")
        found.append(Block(page, language, mark[1] if mark else "", content))
    if text.count("```") != 2 * len(found):
        raise ValueError(f"{page}: a fence that begins or ends no block")
    if text.count("<!--") != sum(bool(block.mark) for block in found):
        raise ValueError(f"{page}: a comment that is not in the line before a block of bash")
    return found


def blocks(language: str) -> list[Block]:
    """The blocks of one language on all pages, in their order."""
    found = [block for page in PAGES for block in blocks_of(page.name, page.read_text("utf-8"))]
    return [block for block in found if block.language == language]


def spans(page: Path) -> Iterator[str]:
    """What stands between backticks in the prose and the tables of a page."""
    for found in _SPAN.findall(_BLOCK.sub("", page.read_text("utf-8"))):
        yield " ".join(found.split())
