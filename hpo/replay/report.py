"""What is said about a race: the figures for programs, and the same as a text in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hpo.replay.regimes import REGIMES
from hpo.replay.runs import Run
from hpo.replay.scores import CLOSE, Comparison, MethodScore, compare, methods_of, score_methods
from hpo.studies.provenance import git_commit, hardware

PREFERRED_BASELINE = "history"
CODE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How the race was run."""

    source: str
    regime: str
    budget: int
    seeds: int
    rows: int
    recorded: Mapping[str, str]  # per family: how many tasks and rows there are, in words
    skipped: Sequence[str]  # what was left out, and why


@dataclass(frozen=True, kw_only=True)
class Report:
    """A race and its figures."""

    setting: Setting
    date: datetime
    code: str  # commit or version
    machine: str
    baseline: str
    tasks: int
    overall: Sequence[MethodScore]
    comparisons: Sequence[Comparison]
    families: Mapping[str, Sequence[MethodScore]]  # by label; empty where there is only one

    def to_json(self) -> dict[str, Any]:
        """The report as it is written to a file."""
        return asdict(self) | {"date": self.date.isoformat(timespec="seconds"), "close": CLOSE}


def report_on(runs: Sequence[Run], setting: Setting, *, baseline: str | None, now: datetime) -> Report:
    """The figures of a race. baseline: what the others are compared with; the tuner's own if nothing is said."""
    methods = methods_of(runs)
    chosen = baseline or (PREFERRED_BASELINE if PREFERRED_BASELINE in methods else methods[0])
    by_family: dict[str, list[Run]] = {}
    for run in runs:
        by_family.setdefault(f"{run.table}: {run.family}", []).append(run)
    return Report(
        setting=setting,
        date=now,
        code=code_version(),
        machine=hardware(),
        baseline=chosen,
        tasks=len({run.place for run in runs}),
        overall=score_methods(runs),
        comparisons=compare(runs, chosen),
        families={label: score_methods(mine) for label, mine in by_family.items()} if len(by_family) > 1 else {},
    )


def code_version() -> str:
    """The commit of this program where it runs from its repository, else its version."""
    is_in_repository = (CODE.parents[1] / ".git").exists()
    commit = git_commit(CODE.parents[1]) if is_in_repository else None
    return commit or f"hindsight-hpo {version('hindsight-hpo')}"


def in_a_sentence(report: Report) -> str:
    """What the race means to whoever has recorded the tasks."""
    needed = {score.method: score.trials_to_close["minmax"] for score in report.overall}
    budget = report.setting.budget
    others = [name for name in needed if name != report.baseline]
    parts = [f"{label(report.baseline)} needed {_trials(needed[report.baseline], budget)} to come within {CLOSE:.0%}"]
    parts += [f"{label(name)} {_trials(needed[name], budget, short=True)}" for name in _worth_naming(others)]
    past = "past task" if report.tasks == 1 else f"{report.tasks} past tasks"
    return f"On your {past}: {', '.join(parts)}."


def label(method: str) -> str:
    """A method as tables name it: `RGPE` for `tests.rivals:RGPE`."""
    return method.rsplit(":", 1)[-1]


def _worth_naming(methods: Sequence[str]) -> list[str]:
    return ["random"] if "random" in methods else list(methods[:1])


def _trials(mean: float, budget: int, *, short: bool = False) -> str:
    words = "" if short else " trials"
    return f"over {budget}{words}" if mean > budget else f"{mean:.1f}{words}"


# Markdown


def to_markdown(report: Report) -> str:
    """The report as a text."""
    setting = report.setting
    lines = [
        f"# Replay of {setting.source}",
        "",
        in_a_sentence(report),
        "",
        f"Regime *{setting.regime}* ({REGIMES[setting.regime]}), {report.tasks} tasks, {setting.seeds} seeds, "
        f"{setting.budget} trials, at most {setting.rows:,} rows a task. {report.date:%Y-%m-%d}, {report.code}, "
        f"{report.machine}.",
        "",
        *(f"- {name}: {words}" for name, words in setting.recorded.items()),
        "",
        *_score_table("All tasks", report.overall),
        *_comparison_table(report),
    ]
    for name, scores in report.families.items():
        lines += _score_table(name, scores)
    if setting.skipped:
        lines += ["Left out:", "", *(f"- {reason}" for reason in setting.skipped), ""]
    return "\n".join(lines)


def _score_table(title: str, scores: Sequence[MethodScore]) -> list[str]:
    lines = []
    for kind, word in (("minmax", "min-max"), ("median", "median")):
        points = list(scores[0].regret[kind])
        ranks = list(scores[0].rank)
        header = [
            "method", *map(str, points), f"trials to {CLOSE:g}", "reached", *(f"rank at {n}" for n in ranks),
            "s p50", "s p95",
        ]  # fmt: skip
        lines += [f"**{title}: mean {word} regret**", "", _row(header), _row(["---"] * len(header))]
        for score in scores:
            cells = [label(score.method), *(f"{score.regret[kind][n]:.3f}" for n in points)]
            cells += [f"{score.trials_to_close[kind]:.1f}", f"{score.reached[kind]:.0%}"]
            cells += [f"{score.rank[n]:.2f}" if n in score.rank else "-" for n in ranks]
            cells += [f"{score.seconds['p50']:.3f}", f"{score.seconds['p95']:.3f}"]
            lines.append(_row(cells))
        lines.append("")
    return lines + _interval_table(scores)


def _interval_table(scores: Sequence[MethodScore]) -> list[str]:
    given = [score for score in scores if score.intervals is not None]
    if not given:
        return []
    header = ["90% intervals", "all", *(bucket_name(each.first, each.last) for each in given[0].buckets)]
    lines = [_row(header), _row(["---"] * len(header))]
    for score in given:
        assert score.intervals is not None
        cells = [
            "-" if each.coverage is None or each.width is None else f"{each.coverage:.2f} (width {each.width:.2f})"
            for each in (score.intervals, *score.buckets)
        ]
        lines.append(_row([label(score.method), *cells]))
    return [*lines, ""]


def bucket_name(first: int, last: int | None) -> str:
    """How many losses were known."""
    return f"{first} or more known" if last is None else f"{first}–{last} known"


def _comparison_table(report: Report) -> list[str]:
    if not report.comparisons:
        return []
    base = label(report.baseline)
    lines = []
    for kind, word in (("minmax", "min-max"), ("median", "median")):
        points = [each.at for each in report.comparisons[0].differences if each.kind == kind]
        header = [f"less {base}", *(f"at {n}" for n in points), f"trials to {CLOSE:g}, ratio"]
        lines += [
            f"**Difference in mean {word} regret from {base}** (negative: better than {base}; 95% intervals from a "
            "bootstrap over tasks; p after Holm)",
            "",
            _row(header),
            _row(["---"] * len(header)),
        ]
        for comparison in report.comparisons:
            cells = [difference_text(each) for each in comparison.differences if each.kind == kind]
            lines.append(_row([label(comparison.method), *cells, ratio_text(comparison, kind)]))
        lines.append("")
    return lines


def difference_text(difference: Any) -> str:
    """A difference with its interval: `-0.021 (-0.040 to -0.004; p .03)`."""
    if difference.interval95 is None:
        return f"{difference.mean:+.3f}"
    low, high = difference.interval95
    return f"{difference.mean:+.3f} ({low:+.3f} to {high:+.3f}; p {difference.p_holm:.2g})"


def ratio_text(comparison: Comparison, kind: str) -> str:
    """How many times as many trials: `1.8 (1.4 to 2.3)`."""
    interval = comparison.trials_ratio_interval95[kind]
    ratio = f"{comparison.trials_ratio[kind]:.2f}"
    return ratio if interval is None else f"{ratio} ({interval[0]:.2f} to {interval[1]:.2f})"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
