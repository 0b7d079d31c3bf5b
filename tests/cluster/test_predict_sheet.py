"""`predict --picture`: a sheet of photographs with their classes as bars, drawn from what the model says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from effnet_cluster.orchestration.errors import UserError
from effnet_cluster.orchestration.report import sheet
from effnet_cluster.orchestration.report.sheet import MOST, Seen, shrunk, write_sheet

RED, BLUE = (200, 30, 30), (30, 30, 200)


def seen(name: str = "a.jpg", color: tuple[int, int, int] = RED, **fields: object) -> Seen:
    ranked = (("daisy", 0.75), ("oak", 0.2), ("rose", 0.05))
    return Seen(name, Image.new("RGB", (40, 40), color), **{"ranked": ranked, **fields})  # type: ignore[arg-type]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are written."""
    figures: list[Figure] = []

    class Kept(Figure):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)  # type: ignore[arg-type]
            figures.append(self)

    monkeypatch.setattr(sheet, "Figure", Kept)
    return figures


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]  # type: ignore[attr-defined]


def test_bars_are_as_long_as_the_probabilities_and_the_photo_is_in_the_picture(
    drawn: list[Figure], tmp_path: Path
) -> None:
    write_sheet([seen()], path := tmp_path / "new" / "sheet.png")
    photo, bars = drawn[0].axes
    assert [bar.get_width() for bar in bars.patches] == [0.75, 0.2, 0.05]  # type: ignore[attr-defined]
    assert [label.get_text() for label in bars.get_yticklabels()] == ["daisy", "oak", "rose"]
    assert {"75.0%", "20.0%", "5.0%"} <= set(texts(drawn[0]))
    assert photo.get_title() == "a.jpg"
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert (pixels == RED).all(1).mean() > 0.15


def test_maps_stand_beside_their_photographs_and_one_that_points_nowhere_says_so(
    drawn: list[Figure], tmp_path: Path
) -> None:
    laid = Image.new("RGB", (40, 40), BLUE)
    write_sheet([seen(overlay=laid, explains="oak"), seen("b.jpg", explains="oak")], path := tmp_path / "s.png")
    assert len(drawn[0].axes) == 6
    assert {"where: oak", "the same\neverywhere"} <= set(texts(drawn[0]))
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert (pixels == BLUE).all(2).any()
    assert np.argwhere((pixels == BLUE).all(2))[:, 1].min() > np.argwhere((pixels == RED).all(2))[:, 1].max()


def test_names_are_no_markup_and_long_ones_are_cut(drawn: list[Figure], tmp_path: Path) -> None:
    odd = [("$\\frac{1}$", 0.5), ("_{x}^2$", 0.3), ("a" * 80, 0.2)]
    write_sheet([seen("100$ or $50.jpg", ranked=odd)], tmp_path / "s.svg")
    found = texts(drawn[0])
    assert {"100$ or $50.jpg", "$\\frac{1}$", "_{x}^2$"} <= set(found)
    assert max(map(len, found)) == 28
    assert not any(text.get_parse_math() for text in drawn[0].findobj(Text))  # type: ignore[attr-defined]


@pytest.mark.parametrize("count", [1, 4, 5, MOST])
def test_every_photograph_has_its_place(drawn: list[Figure], tmp_path: Path, count: int) -> None:
    write_sheet([seen(f"{number}.jpg") for number in range(count)], tmp_path / "s.png")
    assert [axes.get_title() for axes in drawn[0].axes[::2]] == [f"{number}.jpg" for number in range(count)]
    drawn[0].draw_without_rendering()
    boxes = [axes.get_tightbbox().frozen() for axes in drawn[0].axes]
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no picture ends in '\.docx'; use one of .*png"):
        write_sheet([seen()], tmp_path / "s.docx")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_sheet([seen()], tmp_path / "file" / "s.png")


def test_pictures_are_kept_no_larger_than_they_are_shown() -> None:
    assert shrunk(Image.new("RGB", (4000, 3000))).size == (300, 225)
    assert shrunk(Image.new("RGB", (32, 32))).size == (32, 32)
