"""`hpo tune --server`: a study is launched on a service and followed by its events. Ctrl-C only stops looking on.

So are replicates, for `hpo best --replicates --server`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import TrialState
from rich.console import Console

from hpo.cli import show
from hpo.cli.source import PATIENCE_SECONDS
from hpo.cli.text import escape
from hpo.cli.tuning import Display, print_beginning, print_result
from hpo.client.client import Client
from hpo.client.events import Event
from hpo.decisions.winner import Against, Best
from hpo.errors import SettingsError, StudyFailedError
from hpo.running.executors import HERE, Placement
from hpo.running.runner import Progress
from hpo.studies.study_file import load_spec, overridden, parse_spec
from hpo.studies.yaml_lines import read_yaml
from storage.history import StudySummary, TrialRecord

FOLLOWED_SECONDS = 600.0  # that a service may be away while its study is followed
GOES_ON = {"queued", "running", "starting"}


def tune_on_server(
    study_file: Path,
    server: str,
    *,
    trials: int | None,
    jobs: int,
    name: str | None,
    stop: str | None,
    resume: bool,
    placement: Placement,
    as_json: bool,
) -> None:
    """Launch the study of a file, or go on with it, and follow it to its end."""
    check_placement(placement)
    content = _content(study_file, trials=trials, study=name, stop=stop)
    console = Console(stderr=True, highlight=False)
    with Client(server, patience_seconds=PATIENCE_SECONDS) as client:
        if resume:
            study = _resumed(client, parse_spec(content, source=str(study_file)).study, trials, stop)
        else:
            study = client.create_study(
                content, place="server", jobs=jobs, executor=_executor(placement), ray_address=placement.ray_address
            )
        study = client.study(study.study_id)
        print_beginning(console, parse_spec(study.spec or content))
        try:
            watch = _Watch(study, _best_so_far(client, study))
            with Display(console) as display:
                state, message = _followed(client, study, watch, display)
        except KeyboardInterrupt:
            again = shlex.join(["hpo", "tune", str(study_file), "--resume", "--server", client.transport.url])
            console.print(f"detached; the study goes on there. Look on again with: {escape(again)}", soft_wrap=True)
            raise
        if state == "failed":
            raise StudyFailedError(f"study {study.name!r} has failed: {message or 'its log says why'}")
        print_result(client, study.name, as_json=as_json, server=client.transport.url)


def _content(study_file: Path, **changes: Any) -> Mapping[str, Any]:
    """What the service gets. Raises SpecError as `load_spec`: with the file's lines, which no service sees."""
    load_spec(study_file, **changes)
    content, _ = read_yaml(study_file)
    assert isinstance(content, dict)
    return overridden(content, **changes)


def _resumed(client: Client, name: str, trials: int | None, stop: str | None) -> StudySummary:
    """The study of that name, which goes on unless it does so already."""
    if trials is not None or stop is not None:
        raise SettingsError("a study on a server goes on as it was created: leave --trials and --stop out of --resume")
    launch = client.launch_of(name)
    if launch is None:
        return client.start(name)
    return client.study(name) if launch["state"] in GOES_ON else client.resume(name)


def replicate_on_server(
    study: str,
    most: int,
    server: str,
    *,
    against: Against | None,
    jobs: int,
    placement: Placement,
    describe: Callable[[Progress], str],
    again: Sequence[str],
) -> Best:
    """Let a service train the contenders of a study again, or look on where it does so already; what is best then.

    again: the command that looks on again.
    """
    check_placement(placement)
    console = Console(stderr=True, highlight=False)
    number = against if isinstance(against, int) else None
    with Client(server, patience_seconds=PATIENCE_SECONDS) as client:
        held = client.replicates_of(study)
        if held is None or (client.launch_of(held) or {}).get("state") not in GOES_ON:
            executor = _executor(placement)
            held = client.start_replicates(study, most, jobs=jobs, against=number, executor=executor)
        watch = _Watch(held, None, total=most)
        try:
            with Display(console, describe=describe, unit="replicates") as display:
                _followed(client, held, watch, display)
        except KeyboardInterrupt:
            words = shlex.join([*again, "--server", client.transport.url])
            console.print(f"detached; they are trained there. Look on again with: {escape(words)}", soft_wrap=True)
            raise
        client.check_end(held)
        return client.best(study, against=against)


def check_placement(placement: Placement) -> None:
    """Raises SettingsError for a way to start trials that a service has not."""
    if placement.launch is not None or placement.launch_host is not None:
        raise SettingsError("--launch is for trials that this process starts; on a server, say --executor or nothing")


def _executor(placement: Placement) -> str | None:
    return None if placement.executor == HERE.executor else placement.executor


def _best_so_far(client: Client, study: StudySummary) -> TrialRecord | None:
    return show.best_trial(study, client.trials(study.name)) if study.best is not None else None


def _followed(client: Client, study: StudySummary, watch: _Watch, display: Display) -> tuple[str | None, str | None]:
    """Show how the study goes on; in which state the service leaves it, and what it said last."""
    state = message = said = None
    with client.watch(study, patience_seconds=FOLLOWED_SECONDS) as events:
        for event in events:
            state, message = event.state or state, event.message if event.study is not None else message
            if message and message != said:
                display.say(message)
                said = message
            progress = watch.hear(event)
            if progress.running or progress.finished:
                display.show(progress)
    return state, message


class _Watch:
    """How far a study is, by what was heard of it."""

    def __init__(self, study: StudySummary, best: TrialRecord | None, *, total: int | None = None) -> None:
        self._study, self._best = study, best
        self._total = total or ((study.spec or {}).get("budget") or {}).get("trials")
        self._sign = -1.0 if study.directions[0] == "maximize" else 1.0

    def hear(self, event: Event) -> Progress:
        """How far it is after an event."""
        if event.study is not None:
            self._study = event.study
        trial, best = event.trial, self._best
        if trial is not None and trial.state == TrialState.COMPLETE and trial.value is not None:
            is_better = best is None or best.value is None or self._sign * trial.value < self._sign * best.value
            self._best = best = trial if is_better and len(self._study.directions) == 1 else best
        counts = self._study.counts
        return Progress(
            study=self._study.name,
            total=self._total,
            finished=sum(count for state, count in counts.items() if state.is_finished()),
            pruned=counts[TrialState.PRUNED],
            failed=counts[TrialState.FAIL],
            running=counts[TrialState.RUNNING],
            best_value=self._study.best if best is None else best.value,  # the study may be heard of before its trial
            best_number=None if best is None else best.number,
            seconds_left=None,
        )
