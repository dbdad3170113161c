"""Do the figures show what they were given?"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dashboards.figures import RacePanel, race_figure


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
