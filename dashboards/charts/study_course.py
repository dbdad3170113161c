"""How did a study get on? Its trials, the best so far and what that is worth, and what history had led to expect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.trial import TrialState

from dashboards.charts.look import ACCENT, BAND, FAINT, INK, SECOND, Chart, short, translucent, whole_ticks
from hpo.arrays import Array
from hpo.decisions.worth_course import Worth

MOST_POINTS = 300  # of each kind that are drawn: a browser takes a millisecond for each; the line leaves none out
OUTLIERS = 0.1  # share of the worst complete trials that may lie outside the figure
CROWDED = 2.0  # spans from the best to that share: where the worst is farther off
FEWEST_FOR_A_RANGE = 10


def study_course_chart(
    numbers: Sequence[int],
    states: Sequence[TrialState],
    values: Sequence[float],
    *,
    metric: str,
    maximize: bool,
    worth: Sequence[Worth] = (),
    foretold: Sequence[Mapping[str, Any]] = (),
) -> Chart:
    """The figure at the head of a study.

    numbers, states, values: (n,) of its finished trials, in the order of their numbers. worth: what the best was worth
    at some stages. foretold: stages of a forecast as `hpo.answers.plan` gives them.
    """
    complete = np.array(states, dtype=np.int64) == TrialState.COMPLETE.value
    known = np.array(values, dtype=np.float64)
    best = _best_so_far(np.where(complete, known, np.nan), maximize=maximize)
    expected = _expected(foretold)
    data = [*expected, *_trials(numbers, complete, known, best), *_worth(worth), _line(best)]
    return {
        "title": f"The best {metric} so far",
        "data": data if np.isfinite(best).any() or expected else [],
        "empty": "No trial has been completed yet.",
        "layout": {
            "xaxis": {"title": {"text": "finished trials"}, "zeroline": False, **whole_ticks(len(numbers))},
            "yaxis": {
                "title": {"text": short(metric)},
                "zeroline": False,
                **_range(known, complete, best, maximize=maximize),
            },
            "hovermode": "closest",
        },
        "summary": _summary(best, metric),
        "table": {
            "columns": ["finished trials", "trial", f"best {metric} so far"],
            "rows": [
                [at + 1, int(numbers[at]), float(best[at])]
                for at in range(len(best))
                if np.isfinite(best[at]) and (at == 0 or best[at] != best[at - 1])
            ],
        },
    }


def _best_so_far(values: Array, *, maximize: bool) -> Array:
    """(n,) the best finite value up to each, NaN before the first."""
    losses = np.where(np.isfinite(values), -values if maximize else values, np.inf)
    best = np.minimum.accumulate(losses) if len(losses) else losses
    return np.where(np.isfinite(best), -best if maximize else best, np.nan)


def _line(best: Array) -> dict[str, Any]:
    at = [k for k in range(len(best)) if np.isfinite(best[k]) and (k in (0, len(best) - 1) or best[k] != best[k - 1])]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "best so far",
        "x": [k + 1 for k in at],
        "y": [float(best[k]) for k in at],
        "line": {"color": ACCENT, "width": 2.4, "shape": "hv"},
        "hovertemplate": "best after %{x} trials: %{y:.5g}<extra></extra>",
    }


def _trials(numbers: Sequence[int], complete: Any, values: Array, best: Array) -> list[dict[str, Any]]:
    traces = []
    for name, which, colour, symbol in (
        ("complete", complete, INK, "circle"),
        ("pruned", ~complete, SECOND, "x-thin-open"),
    ):
        found = np.flatnonzero(which & np.isfinite(values))
        if not len(found):
            continue
        at = found
        if len(found) > MOST_POINTS:
            sets_the_best = np.flatnonzero(np.diff(best, prepend=np.nan) != 0)
            even = found[np.linspace(0, len(found) - 1, MOST_POINTS).astype(np.intp)]
            at = np.union1d(even, np.intersect1d(found, sets_the_best))
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name if len(at) == len(found) else f"{name} ({len(at)} of {len(found):,} shown)",
                "x": (at + 1).tolist(),
                "y": values[at].tolist(),
                "customdata": [int(numbers[int(k)]) for k in at],
                "marker": {"color": colour, "size": 6, "opacity": 0.55, "symbol": symbol, "line": {"width": 1.2}},
                "hovertemplate": "trial %{customdata}: %{y:.5g}<extra></extra>",
            }
        )
    return traces


def _worth(worth: Sequence[Worth]) -> list[dict[str, Any]]:
    """What the best is expected to bring again, with its 95% interval."""
    if not worth:
        return []
    x = [each.finished for each in worth]
    band = _band(x, [each.interval95[0] for each in worth], [each.interval95[1] for each in worth], BAND)
    line = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": "worth of the best, 95%",
        "legendgroup": "worth",
        "x": x,
        "y": [each.value for each in worth],
        "customdata": [[each.number, *each.interval95] for each in worth],
        "line": {"color": ACCENT, "width": 1.2, "dash": "dot"},
        "marker": {"size": 5},
        "hovertemplate": "trial %{customdata[0]}, run again: %{y:.5g}, 95% %{customdata[1]:.5g} … %{customdata[2]:.5g}"
        "<extra></extra>",
    }
    return [*(dict(each, legendgroup="worth") for each in band), line]


def _expected(foretold: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What history had led to expect, with the band for 95% of new tasks."""
    told = [stage for stage in foretold if stage.get("value") is not None]
    if not told:
        return []
    x = [stage["trials"] for stage in told]
    sure = [stage for stage in told if stage["value"]["interval95"] is not None]
    lows, highs = ([stage["value"]["interval95"][end] for stage in sure] for end in (0, 1))
    band = _band([stage["trials"] for stage in sure], lows, highs, translucent(FAINT)) if sure else []
    line = {
        "type": "scatter",
        "mode": "lines",
        "name": "foretold from history, 95% of tasks",
        "legendgroup": "foretold",
        "x": x,
        "y": [stage["value"]["expected"] for stage in told],
        "line": {"color": FAINT, "width": 1.6, "dash": "dash"},
        "hovertemplate": "foretold after %{x} trials: %{y:.5g}<extra></extra>",
    }
    return [*(dict(each, legendgroup="foretold") for each in band), line]


def _band(x: list[Any], low: list[float], high: list[float], colour: str) -> list[dict[str, Any]]:
    edge = {"type": "scatter", "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False, "x": x}
    return [{**edge, "y": low}, {**edge, "y": high, "fill": "tonexty", "fillcolor": colour}]


def _range(values: Array, complete: Any, best: Array, *, maximize: bool) -> dict[str, Any]:
    """So that a few bad trials do not press everything else to the edge: they may lie outside."""
    told = values[complete & np.isfinite(values)]
    if len(told) < FEWEST_FOR_A_RANGE:
        return {}
    good = float(best[-1])
    bad = float(np.quantile(told, OUTLIERS if maximize else 1.0 - OUTLIERS))
    finite = values[np.isfinite(values)]
    span = bad - good
    worst = float(finite.min() if maximize else finite.max())
    if abs(worst - good) <= CROWDED * abs(span) or span == 0.0:
        return {}
    return {"range": sorted([good - 0.15 * span, bad + 0.25 * span])}


def _summary(best: Array, metric: str) -> str:
    if not np.isfinite(best).any():
        return f"No trial has a {metric} yet."
    return f"The best {metric} is {best[-1]:.5g} after {len(best)} finished trials."
