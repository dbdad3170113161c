"""What `hpo best` prints, and how it shows that replicates are being trained."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from hpo.cli.front import show_front
from hpo.cli.options import existing_url
from hpo.cli.show import number, open_console, params_text, print_json, simple_table
from hpo.cli.source import opened, server_to_ask
from hpo.cli.text import escape
from hpo.decisions.winner import Against, Best, Contender, Rival
from hpo.errors import SettingsError
from hpo.running.executors import HERE, Placement
from hpo.settings import storage_url
from hpo.studies.replicates import SURE, Fresh, Replication
from storage.masking import without_secrets

if TYPE_CHECKING:
    from hpo.running.runner import Progress


def best_of_study(
    study: str,
    *,
    against: str | None,
    replicates: int | None,
    jobs: int,
    storage: str | None,
    server: str | None,
    mlflow: str | None,
    runs: Path | None,
    as_json: bool,
    placement: Placement = HERE,
) -> None:
    """`hpo best`."""
    rival = parse_against(against)
    with opened(storage, server) as source:
        if rival is None and replicates is None and len(source.study(study).directions) > 1:
            show_front(source, study, figure=None, force=False, as_json=as_json)
            return
        if replicates is None:
            found = source.best(study, against=rival)
    if replicates is not None and (address := server_to_ask(storage, server, mlflow=mlflow, runs=runs)) is not None:
        from hpo.cli.remote_tuning import replicate_on_server

        again = ["hpo", "best", study, "--replicates", str(replicates), "--jobs", str(jobs)]
        found = replicate_on_server(
            study, replicates, address, against=rival, jobs=jobs, placement=placement, describe=_describe, again=again
        )
    elif replicates is not None:
        storage = existing_url(storage)
        given = {"against": against, "replicates": replicates, "jobs": None if jobs == 1 else jobs, "runs": runs}
        places = {"storage": storage, "mlflow": mlflow, "runs": runs, **asdict(placement)}
        found = _replicated(study, replicates, rival, given=given, jobs=jobs, places=places)
    elif placement != HERE:
        raise SettingsError(
            "--executor, --ray-address, --launch and --launch-host say where replicates are trained: add --replicates K"
        )
    if as_json:
        print_json(found.to_json())
    else:
        _print(open_console(), found)


def parse_against(text: str | None) -> Against | None:
    """A trial's number, or a configuration in JSON. Raises SettingsError."""
    if text is None:
        return None
    try:
        given = json.loads(text)
    except ValueError:
        given = None
    if isinstance(given, int) and not isinstance(given, bool) and given >= 0:
        return given
    if isinstance(given, dict) and given:
        return given
    raise SettingsError(
        f"--against {text!r} is neither the number of a trial nor a configuration; write --against 3 or "
        """--against '{"lr": 0.01, "depth": 3}'"""
    )


# Replicates -----------------------------------------------------------------------------------------------------------


def _replicated(
    study: str,
    most: int,
    against: Against | None,
    *,
    given: Mapping[str, Any],
    jobs: int,
    places: Mapping[str, Any],
) -> Best:
    from hpo.cli.tuning import Display
    from hpo.running.replicating import replicate
    from hpo.running.runner import Watcher

    console = Console(stderr=True, highlight=False)
    try:
        with Display(console, describe=_describe, unit="replicates") as display:
            return replicate(
                study,
                most,
                jobs=jobs,
                against=against,
                **places,
                watcher=Watcher(progress=display.show, notice=display.say),
            )
    except KeyboardInterrupt:
        words = ["hpo", "best", study]
        for option, value in {**given, **places}.items():
            if value is not None and (option, value) not in (("storage", storage_url()), ("executor", "local")):
                words += [f"--{option.replace('_', '-')}", without_secrets(str(value))]
        console.print(f"interrupted; nothing is lost. Go on with: {escape(shlex.join(words))}", soft_wrap=True)
        raise


def _describe(progress: Progress) -> str:
    parts = []
    if progress.failed:
        parts.append(f"{progress.failed} failed")
    if progress.running:
        parts.append(f"{progress.running} running")
    return ", ".join(parts) or ("training" if progress.finished else "the first replicates are training")


# What is printed ------------------------------------------------------------------------------------------------------


def _print(console: Console, found: Best) -> None:
    metric = escape(found.metric)
    left_out = [f"{count} {what}" for count, what in ((found.pruned, "pruned"), (found.failed, "failed")) if count]
    rest = f" ({', '.join(left_out)} left out)" if left_out else ""
    console.print(
        f"[bold]{escape(found.study)}[/]  {metric} ({found.direction}), {found.used} complete trials judged{rest}",
        soft_wrap=True,
    )
    if found.replication is not None:
        _print_replication(console, found, found.replication)
    if found.winner is None:
        _print_undecided(console, found)
    else:
        _print_winner(console, found, found.winner)
    for note in found.notes:
        console.print(f"[dim]note: {escape(note)}[/]", soft_wrap=True)


def _print_undecided(console: Console, found: Best) -> None:
    console.print(f"not enough to say which is best: {escape(found.not_enough or '')}", soft_wrap=True)
    if found.raw_best is not None:
        trial, value = found.raw_best
        console.print(
            f"the best value so far is {number(value)} in trial {trial}; as the best of several it is too good",
            soft_wrap=True,
        )


def _print_winner(console: Console, found: Best, winner: Contender) -> None:
    metric = escape(found.metric)
    judged_by = "best" if found.replication is None else "by the study's own trials"
    console.print(f"\n{judged_by}: trial {winner.number}  {escape(params_text(winner.params))}", soft_wrap=True)
    console.print(
        f"  expected {metric} of another run  [bold]{number(winner.value)}[/]   95% {_between(winner.interval95)}",
        soft_wrap=True,
    )
    console.print(f"  probability of being the best  {_percent(winner.probability_best)}", soft_wrap=True)
    if found.raw_best is not None:
        trial, value = found.raw_best
        where = "" if trial == winner.number else f" in trial {trial}"
        console.print(f"  best raw value  {number(value)}{where}, chosen for its luck as well", soft_wrap=True)
    if found.noise is not None and found.noise_interval95 is not None:
        source = f", known from {found.noise_known_from} too" if found.noise_known_from else ""
        console.print(
            f"  noise between runs  {number(found.noise)}   95% {_between(found.noise_interval95)}{escape(source)}",
            soft_wrap=True,
        )
    if found.against is not None:
        _print_rival(console, found.against)
    if len(found.contenders) > 1:
        _print_contenders(console, found.contenders)


def _print_rival(console: Console, rival: Rival) -> None:
    if rival.is_winner:
        console.print(f"  against {escape(rival.what)}: it is the best itself", soft_wrap=True)
        return
    console.print(
        f"  against {escape(rival.what)} (expected {number(rival.value)}): better with probability "
        f"{_percent(rival.probability_beaten)}, by {number(rival.gain)}, 95% {_between(rival.gain_interval95)}",
        soft_wrap=True,
    )


def _print_contenders(console: Console, contenders: Sequence[Contender]) -> None:
    table = simple_table(
        "trial", "P(best)", "expected", "95% interval", "raw", "parameters",
        numbers=("trial", "P(best)", "expected", "95% interval", "raw"),
    )  # fmt: skip
    for each in contenders:
        table.add_row(
            str(each.number),
            _percent(each.probability_best),
            number(each.value),
            _between(each.interval95),
            number(each.raw),
            escape(params_text(each.params)),
        )
    console.print(table)


def _print_replication(console: Console, found: Best, replication: Replication) -> None:
    winner = replication.winner
    if winner is None or winner.mean is None:
        console.print(f"\nall {replication.spent} replicates failed: hpo show {escape(shlex.quote(replication.study))}")
        return
    params = escape(params_text(winner.params))
    console.print(
        f"\nby {replication.spent} replicates on fresh seeds: trial {winner.number}  {params}", soft_wrap=True
    )
    n = len(winner.values)
    interval = "one replicate has no interval" if winner.interval95 is None else f"95% {_between(winner.interval95)}"
    console.print(
        f"  {escape(found.metric)} to publish  [bold]{number(winner.mean)}[/]   {interval}   "
        f"(mean of {n} replicate{'s' if n != 1 else ''})",
        soft_wrap=True,
    )
    others = len(replication.contenders) - 1
    if others and winner.chosen_value is not None and winner.chosen_interval95 is not None:
        console.print(
            f"  {number(winner.chosen_value)}   95% {_between(winner.chosen_interval95)}   "
            f"if you publish it because it came out best of {others + 1}",
            soft_wrap=True,
        )
    console.print(f"  {escape(_verdict(replication, winner))}", soft_wrap=True)
    table = simple_table(
        "trial", "replicates", "failed", "mean", "95% interval", "P(best)",
        numbers=("trial", "replicates", "failed", "mean", "95% interval", "P(best)"),
    )  # fmt: skip
    for each in replication.contenders:
        table.add_row(
            str(each.number),
            str(len(each.values)),
            str(each.failed),
            number(each.mean),
            "-" if each.interval95 is None else _between(each.interval95),
            _percent(each.probability_best),
        )
    console.print(table)


def _verdict(replication: Replication, winner: Fresh) -> str:
    count = len(replication.contenders)
    if count == 1:
        return "no other configuration was in question"
    if replication.separated:
        return (
            f"the best of {len(replication.contenders)} contenders with probability {_percent(winner.probability_best)}"
        )
    return (
        f"not separated yet: the best of {len(replication.contenders)} contenders with probability "
        f"{winner.probability_best:.1%}, {_percent(SURE)} are asked for; more --replicates would tell"
    )


def _between(interval: Sequence[float]) -> str:
    return f"{number(interval[0])} … {number(interval[1])}"


def _percent(share: float) -> str:
    if 0.0 < share < 0.005:
        return "under 1%"
    return "over 99%" if 0.995 < share < 1.0 else f"{share:.0%}"
