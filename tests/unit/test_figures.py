"""Do the figures show what they were given?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from dashboards.figures import RacePanel, race_figure
from hpo.errors import SettingsError
from hpo.figures.drawing import plain, save


def test_the_race_shows_both_medians_for_every_task(tmp_path: Path) -> None:
    cold = np.array([[3.0, 2.0, 1.0], [5.0, 2.0, 2.0], [4.0, 4.0, 3.0]])
    panels = [RacePanel(title=title, cold=cold, history=cold / 2) for title in ("a", "b")]
    figure = race_figure(panels, loss_name="val_loss")
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["a", "b"]
    shown_cold, shown_history, reached = figure.axes[0].lines
    np.testing.assert_allclose(np.asarray(shown_cold.get_ydata()), [4.0, 2.0, 2.0])
    np.testing.assert_allclose(np.asarray(shown_history.get_ydata()), [2.0, 1.0, 1.0])
    np.testing.assert_allclose(np.asarray(reached.get_ydata()), 2.0)
    figure.savefig(tmp_path / "race.png")
    assert (tmp_path / "race.png").stat().st_size > 10_000


def test_a_page_holds_the_drawing_and_nothing_else(tmp_path):
    figure = Figure()
    figure.suptitle(plain("<b> costs $5"))
    save(figure, tmp_path / "figure.html")
    page = (tmp_path / "figure.html").read_text(encoding="utf-8")
    assert "<title>&lt;b&gt; costs $5</title>" in page
    assert page.count("<svg") == page.count("</svg>") == 1 and "<?xml" not in page and "http-equiv" not in page
    save(figure, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"nowhere.*cannot be drawn"):
        save(Figure(), tmp_path / "nowhere" / "figure.html")
