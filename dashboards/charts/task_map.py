"""Which tasks resemble which? A chart."""

from __future__ import annotations

from dashboards.charts.look import ACCENT, INK, Chart, plain, short
from hpo.decisions.resemblance import PlacedTask, Resemblance

NAMED_TASKS = 25  # more cannot be read
NAME_LENGTH = 22


def task_map_chart(found: Resemblance) -> Chart:
    """Tasks as dots: those alike side by side, pale where their own runs tell little."""
    most = max(task.trials for task in found.tasks)
    said = f"two axes keep {found.kept:.0%} of the distances;<br>the least alike: r = {found.least:+.2f}"
    is_named = len(found.tasks) <= NAMED_TASKS
    return {
        "title": "Which tasks resemble which",
        "table": {
            "columns": ["task", "x", "y", "trials", "told by its own runs", "nearest", "correlation"],
            "rows": [
                [task.task, task.x, task.y, task.trials, task.told, task.nearest[0].task, task.nearest[0].correlation]
                for task in found.tasks
            ],
        },
        "data": [
            {
                "type": "scatter",
                "mode": "markers+text" if is_named else "markers",
                "x": [task.x for task in found.tasks],
                "y": [task.y for task in found.tasks],
                "text": [short(task.task, NAME_LENGTH) for task in found.tasks],
                "textposition": "top center",
                "textfont": {"size": 11, "color": INK},
                "hovertext": [_said(task) for task in found.tasks],
                "hovertemplate": "%{hovertext}<extra></extra>",
                "marker": {
                    "color": ACCENT,
                    "size": [7 + 11 * (task.trials / most) ** 0.5 for task in found.tasks],
                    "opacity": [0.25 + 0.65 * max(task.told, 0.0) for task in found.tasks],
                    "line": {"width": 0},
                },
            }
        ],
        "layout": {
            "height": 460,
            "showlegend": False,
            "hovermode": "closest",
            "xaxis": {
                "title": {"text": said},
                "showticklabels": False,
                "showgrid": False,
                "zeroline": False,
                "ticks": "",
            },
            "yaxis": {
                "showticklabels": False,
                "showgrid": False,
                "zeroline": False,
                "ticks": "",
                "scaleanchor": "x",
                "scaleratio": 1,
            },
        },
    }


def _said(task: PlacedTask) -> str:
    lines = [f"<b>{plain(task.task)}</b>", f"{task.trials:,} trials, which tell {task.told:.0%} of it"]
    lines += [f"r = {other.correlation:+.2f} with {plain(other.task)}" for other in task.nearest]
    return "<br>".join(lines)
