"""What `hpo plan` foretells: how often do its 95% bands hold for a task that it does not know, and how wide are they?

    python -m tests.benchmarks.decisions.plan FOLDER [--quick]

*recorded*: the tuner tunes recorded tasks, with the others of the table as its history; each task's incumbent is
foretold from those of the other tasks at 1, 3, 5, 10, 20 and 30 trials. *few*: the same from 5, 8 and 12 tasks drawn
at random. *simulated*: tasks drawn from distributions that are known, so that the oracle's band is: its 2.5% and 97.5%
quantiles; *simulated, five* the same from 5 tasks. What was asked for is written to tests/benchmarks/results: plan.md
and plan.json.

held: share of held-out tasks inside their band (bar: .93 to .97 over all tasks of a kind). A table of 12 tasks can miss
it by chance: one task that is unlike all others is a twelfth.
width: of the band to the oracle's (bar: at most 1.25), or to the spread of the tasks' 2.5% and 97.5% quantiles, for
information.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy import stats

from hpo.replay.runs import Run
from hpo.statistics.progress_bands import LEAST_TASKS, milestones, prediction_band
from tests.benchmarks.decisions import _tuned

HELD, WIDEST = (0.93, 0.97), 1.25  # the bars
FEW = (5, 8, 12)  # past tasks
DRAWS = 200
SIMULATED = {
    "normal": stats.norm(0.3, 0.1),
    "lognormal, wide": stats.lognorm(1.0),
    "lognormal": stats.lognorm(0.3),
    "Student's t, 4 degrees": stats.t(4),
    "beta(2, 8)": stats.beta(2, 8),
    "beta(8, 1)": stats.beta(8, 1),
}
SIMULATED_TASKS = {"simulated, five": (5,), "simulated": (8, 12, 20, 40)}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How bands did."""

    kind: str
    what: str
    tasks: int  # past ones
    cases: int
    held: float
    width: float  # median


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; 0."""
    options = _tuned.parser(__doc__ or "").parse_args(arguments)
    draws = DRAWS // 4 if options.quick else DRAWS
    outcomes = [
        *(outcome for table, runs in _tuned.tuned(options).items() for outcome in recorded(table, runs, draws)),
        *simulated(draws),
    ]
    kinds = list(dict.fromkeys(each.kind for each in outcomes))
    outcomes += [_together(kind, outcomes) for kind in kinds]
    text = _tuned.markdown(
        ["kind", "what", "past tasks", "cases", "held", "width"],
        [
            [each.kind, each.what, str(each.tasks), str(each.cases), f"{each.held:.3f}", f"{each.width:.2f}"]
            for each in outcomes
        ],
    )
    (_tuned.RESULTS / "plan.md").write_text(text, encoding="utf-8")
    content = {"bars": {"held": HELD, "width": WIDEST}, "outcomes": [asdict(each) for each in outcomes]}
    (_tuned.RESULTS / "plan.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(text)
    for each in outcomes[-len(kinds) :]:
        verdict = "met" if HELD[0] <= each.held <= HELD[1] else "MISSED"
        print(f"{each.kind}: held {each.held:.3f} (bar .93 to .97: {verdict})")
    width = outcomes[-1].width
    print(f"simulated: {width:.2f} times as wide as the oracle's (bar 1.25: {'met' if width <= WIDEST else 'MISSED'})")
    return 0


def recorded(table: str, runs: Sequence[Run], draws: int) -> Iterator[Outcome]:
    """Bands for each task from the others, and from a few of them."""
    curves = np.array([run.incumbent for run in runs])
    rng = np.random.default_rng(0)
    ks = [k for k in milestones(curves.shape[1]) if k <= curves.shape[1]]
    t = len(curves)
    if t > LEAST_TASKS:
        cases = [(np.delete(np.arange(t), task), task, k) for task in range(t) for k in ks]
        yield _outcome("recorded", table, curves, cases)
    for count in FEW:
        if t > count + 1:
            orders = [rng.permutation(t) for _ in range(draws)]
            yield _outcome("few", table, curves, [(order[:count], order[count], k) for order in orders for k in ks])


def _outcome(kind: str, table: str, curves: np.ndarray, cases: Sequence[tuple[np.ndarray, int, int]]) -> Outcome:
    held, widths = [], []
    for past, task, k in cases:
        losses = curves[:, k - 1]
        band = prediction_band(losses[past])
        if band is not None:
            held.append(band.low <= losses[task] <= band.high)
            spread = float(np.ptp(np.quantile(losses, (0.025, 0.975))))
            widths.append((band.high - band.low) / spread if spread > 0 else np.nan)
    return Outcome(
        kind=kind,
        what=table,
        tasks=len(cases[0][0]),
        cases=len(held),
        held=float(np.mean(held)),
        width=float(np.nanmedian(widths)),
    )


def simulated(draws: int) -> Iterator[Outcome]:
    """Bands from tasks of known distributions."""
    rng = np.random.default_rng(0)
    cases = [(kind, count) for kind, counts in SIMULATED_TASKS.items() for count in counts]
    for kind, count in cases:
        for name, distribution in SIMULATED.items():
            low, high = distribution.ppf([0.025, 0.975])
            bands = [prediction_band(distribution.rvs(count, random_state=rng)) for _ in range(draws)]
            known = [band for band in bands if band is not None]
            yield Outcome(
                kind=kind,
                what=name,
                tasks=count,
                cases=len(known),
                held=float(np.mean([np.diff(distribution.cdf([band.low, band.high]))[0] for band in known])),
                width=float(np.median([(band.high - band.low) / (high - low) for band in known])),
            )


def _together(kind: str, outcomes: Sequence[Outcome]) -> Outcome:
    of = [each for each in outcomes if each.kind == kind]
    cases = np.array([each.cases for each in of])
    return Outcome(
        kind=kind,
        what="all",
        tasks=int(np.median([each.tasks for each in of])),
        cases=int(cases.sum()),
        held=float(cases @ [each.held for each in of] / cases.sum()),
        width=float(np.median([each.width for each in of])),
    )


if __name__ == "__main__":
    sys.exit(main())
