"""What does an answer look like as a figure? The questions whose figure takes more than the answer tells.

As `hpo.answers.questions`: a process of its own can answer, with the bytes of a file in base64.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from hpo.answers.effects import chosen_places
from hpo.one_thread import one_thread
from storage.database import Store

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Format: TypeAlias = Literal["png", "svg", "pdf", "html"]
MEDIA_TYPES: Mapping[str, str] = {
    "png": "image/png",
    "svg": "image/svg+xml",
    "pdf": "application/pdf",
    "html": "text/html",
}


def effects_picture(
    store_url: str,
    *,
    format: Format,
    target: str,
    where: str = "",
    parameters: Sequence[str] = (),
    raw_units: bool = False,
) -> str:
    """As `hpo stats --figure`. Raises as `questions.effects`, and SettingsError where nothing can be drawn."""
    from hpo.decisions.past_effects import past_effects  # noqa: PLC0415 - drawing takes what answers do not
    from hpo.figures.effects_figure import effects_figure  # noqa: PLC0415

    with one_thread():
        found = past_effects(Store(store_url), target, where=where, raw_units=raw_units)
        figure = effects_figure(found, chosen_places(found, parameters), is_chosen=bool(parameters))
        return _drawn(figure, format)


def advice_picture(store_url: str, *, format: Format, target: str, together: bool = False) -> str:
    """As `hpo advise --plot`. Raises as `questions.advise`."""
    from hpo.decisions.range_advice import advise  # noqa: PLC0415
    from hpo.figures.advice_figure import advice_figure  # noqa: PLC0415

    with one_thread():
        return _drawn(advice_figure(advise(Store(store_url), target, together=together)), format)


def plan_picture(
    store_url: str, *, format: Format, file: Mapping[str, Any], jobs: int = 1, price_per_hour: float | None = None
) -> str:
    """As `hpo plan --figure`, of the content of a study file. Raises SpecError."""
    from hpo.decisions.forecast import forecast  # noqa: PLC0415
    from hpo.figures.forecast_figure import forecast_figure  # noqa: PLC0415
    from hpo.studies.study_file import parse_spec  # noqa: PLC0415

    with one_thread():
        found = forecast(Store(store_url), parse_spec(file), jobs=jobs, price_per_hour=price_per_hour)
        return _drawn(forecast_figure(found), format)


def _drawn(figure: Figure, format: Format) -> str:
    from hpo.figures.drawing import save  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"figure.{format}"
        save(figure, path)
        return base64.b64encode(path.read_bytes()).decode("ascii")
