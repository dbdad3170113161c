"""Is the winner worth what `hpo best` says, is it as sure as it says, and do replicates find the right one?

    python -m tests.benchmarks.decisions.best --seeds 12 --trials 20,60,200

Studies of 5 functions, with normal noise and with Student's t of 3 degrees of freedom, chosen by Optuna's TPE; the
noise has half of the functions' standard deviation. Each study is judged after so many trials, as by `hpo best`.
No tables are needed. What was found is written to tests/benchmarks/results: best.md and best.json.

optimism: how much worse the winner truly is than reported, in standard deviations of the noise. coverage: how often the
95% interval of the winner holds its true value. width: of that interval, against that of an oracle: a Gaussian process
that knows the function's kernel (fitted to noiseless values all over the space) and the noise. No function is quite
what its kernel takes it for, so the oracle's own intervals hold less often than in 95%; the bar is for the oracle
widened until they do, by one factor for all studies of so many trials. P(best): Brier score over the configurations of
a study, against giving the best raw value all of it. correct: how often replicates choose the truly best contender, by
OCBA and by equal shares of as many replicates. stood out: of the replications that ended because one contender stood
out, how often it was the best. published: the mean of the winner's fresh replicates.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import minimize

from hpo.arrays import Array
from hpo.running.replicating import FEWEST_OF_THE_WINNER
from hpo.statistics.allocation import FIRST_ROUND, next_round, standing, student_interval
from hpo.statistics.best import judge
from hpo.studies.replicates import SURE
from hpo.surrogates.gaussian_process import Kernel, cholesky
from tests.measured import Figure, table
from tests.noisy_studies import DIMENSIONS, NOISE, NoisyStudy, function, tuned_by_tpe

RESULTS = Path(__file__).parents[1] / "results"
BINS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)  # of P(best), for its reliability
GAPS = (0.0, 0.3, 0.6, 1.0, 1.5)  # of the contenders' means, in standard deviations of the noise


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One study, judged."""

    function: str
    heavy: bool
    n: int
    seed: int
    optimism: float  # of the reported value, in standard deviations of the noise
    raw_optimism: float  # of the best raw value
    covered: bool
    width: float  # in standard deviations of the noise
    oracle_width: float
    oracle_off: float  # of the truth at the oracle's own winner, in half-widths of its 95% interval
    brier: float
    raw_brier: float
    probabilities: tuple[float, ...]
    is_best: tuple[bool, ...]
    noise: float


@dataclass(frozen=True, kw_only=True)
class Replicated:
    """One replication of some contenders."""

    correct: bool
    equal_correct: bool
    stopped: bool  # before the replicates were spent
    optimism: float  # of the published mean, in standard deviations of the noise
    covered: bool
    chosen_optimism: float  # the same, the choice allowed for
    chosen_covered: bool


def judged(name: str, study: NoisyStudy, *, heavy: bool, seed: int) -> Judged:
    """Judge a study as `hpo best` would, and as somebody would who knows kernel and noise."""
    n, d = study.X.shape
    numbers = np.zeros(d, dtype=bool)
    found = judge(study.X, np.arange(n), study.y, np.ones(n, dtype=bool), numbers, np.random.default_rng(seed))
    assert found is not None
    winner, truest, luckiest = found.winner, int(np.argmin(study.truth)), int(np.argmin(study.y))
    low, high = found.intervals[winner]
    best = np.arange(n) == truest
    oracle_width, oracle_off = _oracle(_known_kernel(name, seed if name == "drawn" else 0), study)
    return Judged(
        function=name,
        heavy=heavy,
        n=n,
        seed=seed,
        optimism=float(study.truth[winner] - found.losses[winner]) / NOISE,
        raw_optimism=float(study.truth[luckiest] - study.y[luckiest]) / NOISE,
        covered=bool(low <= study.truth[winner] <= high),
        width=float(high - low) / NOISE,
        oracle_width=oracle_width / NOISE,
        oracle_off=oracle_off,
        brier=float(((found.probabilities - best) ** 2).sum()),
        raw_brier=2.0 * (luckiest != truest),
        probabilities=tuple(float(p) for p in found.probabilities),
        is_best=tuple(bool(each) for each in best),
        noise=found.noise,
    )


def _oracle(kernel: Kernel, study: NoisyStudy) -> tuple[float, float]:
    """The width of the 95% interval at the oracle's own winner, and how far off the truth is, in halves of it."""
    X, K = study.X, kernel.covariance(study.X, study.X)
    half = solve_triangular(cholesky(K + kernel.noise * np.eye(len(X))), np.c_[K, study.y], lower=True)
    mean = half[:, :-1].T @ half[:, -1]
    variance = np.diag(K) - (half[:, :-1] ** 2).sum(axis=0)
    winner = int(np.argmin(mean))
    half_width = 1.96 * float(np.sqrt(max(variance[winner], 1e-12)))
    return 2 * half_width, abs(float(study.truth[winner] - mean[winner])) / half_width


@cache
def _known_kernel(name: str, seed: int) -> Kernel:
    """By maximum likelihood from noiseless values all over the space, with the true noise."""
    d = DIMENSIONS[name]
    X = np.random.default_rng(1).random((140, d))
    y = function(name, seed)(X)

    def scale_and_loss(log_lengths: Array) -> tuple[float, float]:
        kernel = Kernel(lengthscales=np.exp(log_lengths), noise=1e-5, categorical=np.zeros(d, dtype=bool), level=1.0)
        L = cholesky(kernel.covariance(X, X) + 1e-5 * np.eye(len(X)))
        half = solve_triangular(L, y, lower=True)
        scale = float(half @ half) / len(y)
        return scale, len(y) / 2 * np.log(scale) + float(np.log(np.diag(L)).sum())

    start = np.full(d, np.log(0.4))
    end = minimize(
        lambda at: scale_and_loss(at)[1], start, method="L-BFGS-B", bounds=[(-3, 3)] * d, options={"maxiter": 15}
    )
    scale, _ = scale_and_loss(end.x)
    return Kernel(
        lengthscales=np.exp(end.x), noise=NOISE**2, categorical=np.zeros(d, dtype=bool), scale=scale, level=scale
    )


def replicated(k: int, most: int, *, heavy: bool, seed: int) -> Replicated:
    """Replicate k contenders as `hpo best --replicates` does, and by equal shares of as many."""
    rng = np.random.default_rng(seed)
    truth = np.array(GAPS[:k])
    rng.shuffle(truth)
    drawn = rng.standard_t(3, size=(k, most)) / np.sqrt(3) if heavy else rng.standard_normal((k, most))
    losses = truth[:, None] + drawn
    counts = np.zeros(k, dtype=np.intp)
    while True:
        now = standing([losses[i, : counts[i]] for i in range(k)], rng) if counts.any() else None
        if now is not None and counts.min() >= FIRST_ROUND:
            leader = int(np.argmax(now.probabilities))
            stands_out = now.probabilities[leader] >= SURE and counts[leader] >= FEWEST_OF_THE_WINNER
            if stands_out or counts.sum() >= most:
                break
        left = most - int(counts.sum())
        counts += np.full(k, FIRST_ROUND, dtype=np.intp) if now is None else next_round(now, min(left, 2))
    even = [losses[i, : int(counts.sum()) // k + (i < int(counts.sum()) % k)].mean() for i in range(k)]
    published = losses[leader, : counts[leader]]
    interval = student_interval(published)
    assert interval is not None
    low, high = now.intervals[leader]
    return Replicated(
        correct=bool(truth[leader] == 0.0),
        equal_correct=bool(truth[int(np.argmin(even))] == 0.0),
        stopped=bool(stands_out),
        optimism=float(truth[leader] - published.mean()),
        covered=bool(interval[0] <= truth[leader] <= interval[1]),
        chosen_optimism=float(truth[leader] - now.losses[leader]),
        chosen_covered=bool(low <= truth[leader] <= high),
    )


def _figures(studies: Sequence[Judged], replications: dict[str, list[Replicated]]) -> list[Figure]:
    figures = []
    for n in sorted({each.n for each in studies}):
        some = [each for each in studies if each.n == n]
        optimism, covered = np.array([s.optimism for s in some]), np.array([s.covered for s in some])
        raw = float(np.mean([s.raw_optimism for s in some]))
        off = np.array([s.oracle_off for s in some])
        widened = max(float(np.quantile(off, 0.95)), 1.0)
        ratio = float(np.mean([s.width / s.oracle_width for s in some]))
        figures += [
            Figure(
                what=f"optimism, {n} trials",
                ours=float(optimism.mean()),
                rival=raw,
                rival_name="best raw value",
                unit="noise sd",
                at_most=0.1,
                note=f"standard error {optimism.std() / np.sqrt(len(some)):.3f}",
            ),
            Figure(
                what=f"coverage of 95%, {n} trials",
                ours=float(covered.mean()),
                at_least=0.93,
                at_most=0.97,
                note=f"standard error {np.sqrt(0.05 * 0.95 / len(some)):.3f}",
            ),
            Figure(
                what=f"width, {n} trials",
                ours=float(np.mean([s.width for s in some])),
                rival=float(np.mean([s.oracle_width for s in some])) * widened,
                rival_name="oracle whose intervals hold",
                unit="noise sd",
                ratio=ratio / widened,
                at_most=1.25,
                note=f"{ratio:.2f} times the oracle's that hold in {np.mean(off <= 1.0):.3f}",
            ),
            Figure(what=f"width over that of an oracle as it is, {n} trials", ours=ratio, unit="x"),
            Figure(what=f"coverage of the oracle as it is, {n} trials", ours=float(np.mean(off <= 1.0))),
            Figure(
                what=f"P(best), Brier, {n} trials",
                ours=float(np.mean([s.brier for s in some])),
                rival=float(np.mean([s.raw_brier for s in some])),
                rival_name="best raw value",
            ),
        ]
    for name, runs in replications.items():
        stops = [run.correct for run in runs if run.stopped]
        figures += [
            Figure(
                what=f"correct, {name}",
                ours=float(np.mean([run.correct for run in runs])),
                rival=float(np.mean([run.equal_correct for run in runs])),
                rival_name="equal shares",
            ),
            Figure(
                what=f"published: optimism, {name}", ours=float(np.mean([r.optimism for r in runs])), unit="noise sd"
            ),
            Figure(what=f"published: coverage, {name}", ours=float(np.mean([r.covered for r in runs]))),
            Figure(
                what=f"choice allowed for: optimism, {name}",
                ours=float(np.mean([r.chosen_optimism for r in runs])),
                unit="noise sd",
            ),
            Figure(what=f"choice allowed for: coverage, {name}", ours=float(np.mean([r.chosen_covered for r in runs]))),
        ]
        if stops:
            figures.append(
                Figure(what=f"right where one of {len(stops)} stood out, {name}", ours=float(np.mean(stops)))
            )
    return figures


def _lines(studies: Sequence[Judged]) -> str:
    """Function by function, and the reliability of P(best)."""
    rows = [
        "| trials | function | noise | studies | optimism | raw | coverage | width / oracle | noise found |",
        "|" + "---|" * 9,
    ]
    for key in sorted({(s.n, s.function, s.heavy) for s in studies}):
        some = [s for s in studies if (s.n, s.function, s.heavy) == key]
        optimism = np.array([s.optimism for s in some])
        rows.append(
            f"| {key[0]} | {key[1]} | {'t3' if key[2] else 'normal'} | {len(some)} | {optimism.mean():+.2f} ± "
            f"{optimism.std() / np.sqrt(len(some)):.2f} | {np.mean([s.raw_optimism for s in some]):.2f} | "
            f"{np.mean([s.covered for s in some]):.2f} | {np.mean([s.width / s.oracle_width for s in some]):.2f} | "
            f"{np.mean([s.noise for s in some]):.2f} (true {NOISE}) |"
        )
    p, hit = (np.concatenate([getattr(s, f) for s in studies]) for f in ("probabilities", "is_best"))
    rows += ["", "| P(best) said | configurations | mean said | was the best |", "|---|---|---|---|"]
    for low, high in pairwise(BINS):
        inside = (p >= low) & ((p < high) | (high == 1.0))
        if inside.any():
            rows.append(
                f"| {low:.2f} to {high:.2f} | {inside.sum()} | {p[inside].mean():.3f} | {hit[inside].mean():.3f} |"
            )
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it and write the results; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.decisions.best")
    parser.add_argument("folder", nargs="?", help="of recorded tables: not needed here")
    parser.add_argument("--seeds", type=int, default=12, help="studies of each function and noise")
    parser.add_argument("--trials", default="20,60,200")
    parser.add_argument("--replications", type=int, default=1000)
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args(arguments)
    counts = sorted(int(each) for each in asked.trials.split(","))
    started, studies = time.monotonic(), []
    for seed in range(asked.seeds):
        for name in DIMENSIONS:
            for heavy in (False, True):
                study = tuned_by_tpe(name, heavy=heavy, n=counts[-1], seed=seed)
                studies += [judged(name, study.first(n), heavy=heavy, seed=seed) for n in counts]
        print(f"seed {seed}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    replications = {
        f"{k} contenders, at most {most} replicates{', t3' if heavy else ''}": [
            replicated(k, most, heavy=heavy, seed=seed) for seed in range(asked.replications)
        ]
        for k, most, heavy in ((3, 12, False), (5, 20, False), (5, 40, False), (5, 40, True))
    }
    figures = _figures(studies, replications)
    text = f"```\n{table(figures)}\n```\n\n{_lines(studies)}\n"
    asked.results.mkdir(parents=True, exist_ok=True)
    (asked.results / "best.md").write_text(text, encoding="utf-8")
    content = {
        "figures": [{**asdict(figure), "bar": figure.bar, "is_met": figure.is_met} for figure in figures],
        "studies": [asdict(study) for study in studies],
    }
    (asked.results / "best.json").write_text(json.dumps(content), encoding="utf-8")
    print(text, flush=True)
    return 0 if all(figure.is_met for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
