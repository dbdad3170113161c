"""What `hpo explain` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState
from rich.console import Console

from hpo.answers.receipts import study_explanation, trial_explanation
from hpo.cli.show import duration, number, open_console, params_text, print_json, simple_table
from hpo.cli.text import escape, visible
from hpo.statistics.rates import rate_interval
from hpo.tuning.prune_reasons import halving_reason_of, reason_of
from hpo.tuning.receipts import Receipt, cost_of, fell_inside, receipt_of
from storage.errors import TrialNotFoundError

if TYPE_CHECKING:
    from storage.history import StudySummary, TrialRecord

BAR = 20  # characters of a weight of 1
FEW_JUDGED = 10  # values, with fewer a share says little


def explain(study: StudySummary, trials: Sequence[TrialRecord], chosen: int | None, *, as_json: bool) -> None:
    """`hpo explain`."""
    if chosen is None:
        _all(study, trials, as_json=as_json)
        return
    trial = next((trial for trial in trials if trial.number == chosen), None)
    if trial is None:
        there = f"it has 0 … {trials[-1].number}" if trials else "it has none yet"
        raise TrialNotFoundError(f"There is no trial {chosen} in study {study.name!r}; {there}.")
    if as_json:
        print_json(trial_explanation(study, trial))
    else:
        _one(open_console(), study, trial, receipt_of(study, trial))


# One trial ------------------------------------------------------------------------------------------------------------


def _one(console: Console, study: StudySummary, trial: TrialRecord, receipt: Receipt) -> None:
    metric = escape(study.metric or "value")
    console.print(f"[bold]{escape(study.name)}[/], trial {trial.number}: {_state(trial, metric)}", soft_wrap=True)
    console.print(f"[bold]{escape(receipt.role_text)}[/]", soft_wrap=True)
    if receipt.why is not None:
        console.print(f"  {escape(receipt.why)}", soft_wrap=True)
    _print_facts(console, _facts(study, trial, receipt))
    _print_params(console, trial.params, receipt.without_history)
    _print_prune_reason(console, trial)
    if receipt.leans_on:
        console.print("\nleans on")
        width = max(len(visible(name)) for name, _ in receipt.leans_on)
        for name, weight in receipt.leans_on:
            own = "  (this study itself)" if name == study.name else ""
            bar = "█" * max(1, round(BAR * min(weight, 1.0)))
            console.print(
                f"  {escape(name)}{' ' * (width - len(visible(name)))}  {weight:>4.0%} {bar}{own}", soft_wrap=True
            )
    if receipt.ignored:
        console.print("\nignored")
        for sentence in receipt.ignored:
            console.print(f"  {escape(sentence)}", soft_wrap=True)


def _state(trial: TrialRecord, metric: str) -> str:
    value = f"{metric} = [bold]{number(trial.value)}[/]"
    match trial.state:
        case TrialState.COMPLETE:
            return value
        case TrialState.PRUNED:
            return "stopped early (pruned)" + (f" at {value}" if trial.value is not None else "")
        case TrialState.FAIL:
            reason = f": [red]{escape(trial.error.splitlines()[0])}[/]" if trial.error else ""
            return f"failed{reason}"
        case TrialState.RUNNING:
            return "still running"
    return "waiting for its turn"


def _facts(study: StudySummary, trial: TrialRecord, receipt: Receipt) -> list[tuple[str, str]]:
    facts: list[tuple[str, str]] = []
    if receipt.predicted is not None:
        facts.append(
            ("predicted", number(receipt.predicted) + _interval(receipt.interval90, ", 90% between {} and {}"))
        )
    if trial.value is not None and trial.state == TrialState.COMPLETE:
        facts.append(("came out", number(trial.value) + _verdict(receipt, trial)))
    elif trial.state == TrialState.PRUNED and receipt.interval90 is not None:
        facts.append(("came out", "not judged: the prediction is of the value at the end"))
    if receipt.improvement_probability is not None:
        best = (
            f" the best value till then, {number(receipt.incumbent)}" if receipt.incumbent is not None else " the best"
        )
        facts.append(("probability", f"{_probability(receipt.improvement_probability)} that it beats{best}"))
    elif receipt.incumbent is not None:
        facts.append(("best till then", number(receipt.incumbent)))
    if receipt.predicted_cost is not None:
        facts.append(("cost", _cost(receipt, trial)))
    if receipt.history_weight is not None:
        facts.append(("history counts", f"{receipt.history_weight:.0%}"))
    if receipt.pending:
        facts.append(("beside it", f"{receipt.pending} running trial{'' if receipt.pending == 1 else 's'}"))
    if receipt.seconds is not None:
        facts.append(
            ("proposed in", f"{1000 * receipt.seconds:.0f} ms" if receipt.seconds < 1 else duration(receipt.seconds))
        )
    return facts


def _cost(receipt: Receipt, trial: TrialRecord) -> str:
    expected = number(receipt.predicted_cost) + _interval(receipt.cost_interval90, ", 90% between {} and {}")
    came_to = cost_of(receipt, trial)
    return f"{expected} {escape(receipt.cost or '')} expected" + (f"; it was {number(came_to)}" if came_to else "")


def _print_prune_reason(console: Console, trial: TrialRecord) -> None:
    reason, halved = reason_of(trial.system_attrs), halving_reason_of(trial.system_attrs)
    told = reason or halved
    if told is None:
        return
    stopped = trial.state == TrialState.PRUNED
    console.print(f"\n[bold]{'stopped early' if stopped else 'would have been stopped early'}[/]", soft_wrap=True)
    console.print(f"  {escape(told.sentence)}", soft_wrap=True)
    if reason is None:
        facts = [("at step", f"{told.step:g}, with {number(told.value)}")]
        _print_facts(console, [*facts, ("learned from", _names(told.named, told.past_studies))])
        return
    chance = f"{_small(reason.chance)} that its end beats the best value till then, {number(reason.incumbent)}"
    facts = [
        ("at step", f"{reason.step:g}, with {number(reason.value)}"),
        ("end predicted", number(reason.predicted) + _interval(reason.interval90, ", 90% between {} and {}")),
        ("probability", f"{chance}; trials were stopped below {_small(reason.least_chance)}"),
    ]
    if reason.named:
        facts.append(("learned from", _names(reason.named, reason.past_studies)))
    _print_facts(console, facts)


def _names(named: Sequence[str], studies: int) -> str:
    more = studies - len(named)
    return ", ".join(map(escape, named)) + (f" and {more} more" if more > 0 else "")


def _small(share: float) -> str:
    """A share that is mostly far below 1%."""
    return f"{100 * share:.2g}%"


def _verdict(receipt: Receipt, trial: TrialRecord) -> str:
    inside = fell_inside(receipt, trial)
    if inside is None or receipt.interval90 is None or trial.value is None:
        return ""
    if inside:
        return ", inside the interval"
    return f", [yellow]{'above' if trial.value > receipt.interval90[1] else 'below'} the interval[/]"


def _interval(interval: tuple[float, float] | None, words: str) -> str:
    return "" if interval is None else words.format(number(interval[0]), number(interval[1]))


def _probability(share: float) -> str:
    if 0 < share < 0.005:
        return "under 1%"
    return "over 99%" if 0.995 < share < 1 else f"{share:.0%}"


def _print_facts(console: Console, facts: Sequence[tuple[str, str]]) -> None:
    width = max((len(name) for name, _ in facts), default=0)
    for name, text in facts:
        console.print(f"  {name:<{width}}  {text}", soft_wrap=True)


def _print_params(console: Console, params: Mapping[str, Any], without: Mapping[str, Any] | None) -> None:
    if without is None:
        console.print(f"\nconfiguration\n  {escape(params_text(params)) or '-'}", soft_wrap=True)
        return
    differ = [name for name in {**params, **without} if _shown(params, name) != _shown(without, name)]
    table = simple_table("parameter", "proposed", "without history", numbers=("proposed", "without history"))
    for name in differ:
        table.add_row(escape(name), escape(_shown(params, name)), escape(_shown(without, name)))
    same = {name: value for name, value in params.items() if name not in differ}
    if differ:
        console.print(table)
    else:
        console.print("\nconfiguration: the same as without history")
    if same:
        console.print(f"  {'the same in both: ' if differ else ''}{escape(params_text(same))}", soft_wrap=True)


def _shown(params: Mapping[str, Any], name: str) -> str:
    if name not in params:
        return "-"
    return params_text({name: params[name]}).removeprefix(f"{name}=")


# All trials -----------------------------------------------------------------------------------------------------------


def _all(study: StudySummary, trials: Sequence[TrialRecord], *, as_json: bool) -> None:
    if as_json:
        print_json(study_explanation(study, trials))
        return
    receipts = [receipt_of(study, trial) for trial in trials]
    judged = [fell_inside(receipt, trial) for receipt, trial in zip(receipts, trials, strict=True)]
    inside, total = sum(verdict is True for verdict in judged), sum(verdict is not None for verdict in judged)
    interval = rate_interval(inside, total) if total else None
    console = open_console()
    console.print(f"[bold]{escape(study.name)}[/]  {escape(study.metric or 'value')} ({', '.join(study.directions)})")
    if not trials:
        console.print("no trial yet")
        return
    table = simple_table(
        "trial",
        "role",
        "predicted",
        "90% interval",
        "value",
        "",
        numbers=("trial", "predicted", "90% interval", "value"),
    )
    for trial, receipt, verdict in zip(trials, receipts, judged, strict=True):
        table.add_row(
            str(trial.number),
            escape(_role(receipt)),
            number(receipt.predicted),
            _interval(receipt.interval90, "{} … {}") or "-",
            number(trial.value),
            _mark(trial, verdict, receipt),
        )
    console.print(table)
    if interval is None:
        console.print("no finished trial has a prediction to be judged by")
    else:
        more = " (few, so this says little)" if total < FEW_JUDGED else ""
        console.print(
            f"{inside} of {total} values fell inside their 90% interval: {inside / total:.0%}, "
            f"in the long run {interval[0]:.0%} … {interval[1]:.0%}{more}"
        )


def _role(receipt: Receipt) -> str:
    return receipt.role_text.partition(",")[0].partition(":")[0]


def _mark(trial: TrialRecord, verdict: bool | None, receipt: Receipt) -> str:
    if trial.state != TrialState.COMPLETE:
        return trial.state.name.lower()
    if verdict is None or receipt.interval90 is None or trial.value is None:
        return ""
    if verdict:
        return "inside"
    return f"[yellow]{'above' if trial.value > receipt.interval90[1] else 'below'}[/]"
