"""When a study stops by `--stop gain=...`: how often was more left than the tolerance, and how many trials did it take?

    python -m tests.benchmarks.decisions.stopping FOLDER [--quick]

The tuner tunes recorded tasks, with the other tasks of the table as its history (`history`), with a history that
misleads, all values in reversed order (`reversed`), and without any (`cold`). After each trial the rule sees the
predictions made so far and how they came out, as it does in a study: the middle of the 90% interval stands for the
median. The tolerance is a share of the way from the task's median configuration to its best. The oracle stops after
the first trial that leaves no more than the tolerance within the budget. What was asked for is written to
tests/benchmarks/results: stopping.md and stopping.json.

left: the share of studies in which the budget would have gained more than the tolerance (bar: at most .10, nominal
.05). ratio: trials used to the oracle's, all studies together (bar: at most 2). Beside it rules that know nothing:
a fixed number of trials, and so many without an improvement, each as short as 10% allow in hindsight on these runs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from hpo.replay.runs import Run
from hpo.statistics.remaining_gain import LEAST_GUIDANCE, Record, best_case_below, remaining_gain
from hpo.tuning.stopping import CHECKS, FIRST_CHECK
from tests.benchmarks.decisions import _tuned

TOLERANCES = (0.01, 0.02, 0.05, 0.1)
ALLOWED, MOST_RATIO = 0.10, 2.0  # the bars
OURS = "ours"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A rule on the studies of a table, with one tolerance."""

    start: str  # history, reversed or cold
    rule: str
    table: str
    tolerance: float
    studies: int
    left: float  # share of studies
    used: float  # mean trials
    oracle: float
    ratio: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; 0."""
    options = _tuned.parser(__doc__ or "").parse_args(arguments)
    outcomes = []
    for kind, method, regime in (
        ("history", "history", "full"),
        ("reversed", "history", "reversed"),
        ("cold", "gp", "full"),
    ):
        runs = _tuned.tuned(options, method, regime)
        everything = {**runs, "all": [run for of in runs.values() for run in of]}
        for tolerance in TOLERANCES:
            rules = {OURS: ours, **hindsight_rules(everything["all"], tolerance)}
            for name, rule in rules.items():
                for table in everything if name == OURS else ["all"]:
                    outcomes.append(judged(name, kind, table, everything[table], tolerance, rule))
    text = _tuned.markdown(
        ["start", "rule", "table", "tolerance", "studies", "left", "trials", "oracle", "ratio"],
        [
            [
                *(each.start, each.rule, each.table, f"{each.tolerance:g}", str(each.studies), f"{each.left:.3f}"),
                *(f"{each.used:.1f}", f"{each.oracle:.1f}", f"{each.ratio:.2f}"),
            ]
            for each in outcomes
        ],
    )
    (_tuned.RESULTS / "stopping.md").write_text(text, encoding="utf-8")
    content = {"budget": options.budget, "bars": {"left": ALLOWED, "ratio": MOST_RATIO}}
    content |= {"outcomes": [asdict(each) for each in outcomes]}
    (_tuned.RESULTS / "stopping.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(text)
    for each in outcomes:
        if (each.rule, each.table) == (OURS, "all"):
            print(
                f"{each.start}, tolerance {each.tolerance:g}: more was left in {each.left:.1%} (bar 10%: "
                f"{'met' if each.left <= ALLOWED else 'MISSED'}), {each.ratio:.2f} times the oracle's trials (bar 2: "
                f"{'met' if each.ratio <= MOST_RATIO else 'MISSED'})"
            )
    return 0


Rule = Callable[[Run, float], int]
"""After how many trials a study stops, given the tolerance in the metric's units."""


def judged(name: str, start: str, table: str, runs: Sequence[Run], tolerance: float, rule: Rule) -> Outcome:
    """What a rule did."""
    used, oracle, left = [], [], []
    for run in runs:
        enough = tolerance * (run.median - run.least)
        rest = run.incumbent - run.incumbent[-1]
        stop = rule(run, enough)
        used.append(stop)
        oracle.append(int(np.argmax(rest <= enough)) + 1)
        left.append(bool(rest[stop - 1] > enough))
    return Outcome(
        start=start,
        rule=name,
        table=table,
        tolerance=tolerance,
        studies=len(runs),
        left=float(np.mean(left)),
        used=float(np.mean(used)),
        oracle=float(np.mean(oracle)),
        ratio=float(np.sum(used) / np.sum(oracle)),
    )


def ours(run: Run, enough: float) -> int:
    """As `hpo.tuning.stopping` does."""
    record, in_a_row = record_of(run), 0
    for finished in range(FIRST_CHECK, run.budget):
        gain = remaining_gain(record.until(finished), run.budget - finished)
        in_a_row = in_a_row + 1 if gain is not None and gain.quantile < enough and gain.expected < enough else 0
        if in_a_row == CHECKS:
            return finished
    return run.budget


def record_of(run: Run) -> Record:
    """The predictions of a run, and how they came out."""
    known = {
        trial: ends for trial, ends in enumerate(run.intervals) if trial and ends is not None and ends[0] < ends[1]
    }
    if known and not run.best_cases:
        raise SystemExit("the kept runs are of an older form, without best cases: name another file with --kept")
    told, ends = list(known), np.array(list(known.values()), dtype=float).reshape(len(known), 2)
    weights = np.array([run.history_weights[trial] or 0.0 for trial in told])
    middle, low = ends.mean(axis=1), ends[:, 0]
    rows = zip(middle, low, [run.best_cases[trial] for trial in told], strict=True)
    without_noise = np.array([best_case_below(*row) for row in rows], dtype=float)
    return Record(
        numbers=np.array(told, dtype=float),
        predicted=middle,
        low=np.where(weights >= LEAST_GUIDANCE, without_noise, low),
        incumbents=run.incumbent[np.array(told, dtype=int) - 1],
        losses=np.array(run.losses)[told],
        history=weights,
    )


def hindsight_rules(runs: Sequence[Run], tolerance: float) -> dict[str, Rule]:
    """A number of trials, and a patience, as small as the bar allows on these very runs."""
    budget = runs[0].budget
    fixed = {f"{n} trials, chosen in hindsight": _after(n) for n in range(1, budget + 1)}
    patient = {f"{n} without improvement, chosen in hindsight": _without_improvement(n) for n in range(1, budget + 1)}
    chosen = {}
    for rules in (fixed, patient):
        good = [
            (name, rule) for name, rule in rules.items() if judged(name, "", "", runs, tolerance, rule).left <= ALLOWED
        ]
        chosen.update(good[:1])
    return chosen


def _after(trials: int) -> Rule:
    return lambda run, enough: min(trials, run.budget)


def _without_improvement(patience: int) -> Rule:
    def rule(run: Run, enough: float) -> int:
        best_at = 0
        for trial in range(1, run.budget):
            if run.losses[trial] < run.losses[best_at]:
                best_at = trial
            if trial - best_at >= patience:
                return trial + 1
        return run.budget

    return rule


if __name__ == "__main__":
    sys.exit(main())
