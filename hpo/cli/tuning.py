"""`hpo tune` as a person sees it: a line of progress, what went wrong, and the result."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as ProgressBar

from hpo.cli import show
from hpo.cli.front import print_front
from hpo.cli.source import OwnHistory, Source
from hpo.errors import StudyFailedError
from hpo.running.executors import Placement
from hpo.running.runner import Progress, StudyRunner, Watcher
from hpo.settings import storage_url
from hpo.studies.front import front_of
from hpo.studies.spec import StudySpec
from hpo.studies.study_file import load_spec
from storage.masking import without_secrets


def tune_with_progress(
    study_file: Path,
    *,
    trials: int | None,
    jobs: int,
    name: str | None,
    stop: str | None,
    resume: bool,
    storage: str | None,
    mlflow: str | None,
    runs: Path | None,
    placement: Placement,
    as_json: bool,
) -> None:
    """Run the study of a file; progress on standard error, the result on standard output."""
    spec = load_spec(study_file, trials=trials, study=name, stop=stop)
    console = Console(stderr=True, highlight=False)
    print_beginning(console, spec)
    try:
        with Display(console) as display:
            StudyRunner(
                spec,
                folder=study_file.resolve().parent,
                storage=storage,
                mlflow=mlflow,
                runs=runs,
                jobs=jobs,
                placement=placement,
                watcher=Watcher(progress=display.show, notice=display.say),
            ).run(resume=resume)
    except KeyboardInterrupt:
        places = {"storage": storage, "mlflow": mlflow, "runs": runs}
        options = {"study": name, "trials": trials, "jobs": jobs, "stop": stop, **asdict(placement), **places}
        command = _resume_command(study_file, options)
        console.print(f"interrupted; nothing is lost. Go on with: {escape(command)}", soft_wrap=True)
        raise
    print_result(OwnHistory(storage_url(storage)), spec.study, as_json=as_json)


def print_beginning(console: Console, spec: StudySpec) -> None:
    """What is to be tuned."""
    objectives = zip(spec.task.directions, spec.task.metrics, strict=True)
    aims = ", ".join(f"{direction} {metric}" for direction, metric in objectives)
    size = "1 hyperparameter" if len(spec.space) == 1 else f"{len(spec.space)} hyperparameters"
    console.print(f"study [bold]{escape(spec.study)}[/]: {escape(aims)} over {size}")


def _resume_command(study_file: Path, options: Mapping[str, Any]) -> str:
    """The command line that goes on with the study, with the options that were given; a password stays hidden."""
    words = ["hpo", "tune", str(study_file), "--resume"]
    for option, value in options.items():
        if value is not None and (option, value) not in (("jobs", 1), ("executor", "local")):
            words += [f"--{option.replace('_', '-')}", without_secrets(str(value))]
    return shlex.join(words)


def print_result(source: Source, name: str, *, as_json: bool, server: str | None = None) -> None:
    """What a study has come to. server: that it is on, if any. Raises StudyFailedError where it came to nothing."""
    there = "" if server is None else f" --server {shlex.quote(without_secrets(server))}"
    summary, trials = source.study(name), source.trials(name)
    best, found = show.best_trial(summary, trials), front_of(summary, trials)
    if best is None and not found.points:
        raise StudyFailedError(
            f"study {name!r} has ended without one trial that succeeded; `hpo show {shlex.quote(name)}{there}` says why"
        )
    if as_json:
        show.study(summary, trials, stopped=source.stopped(name), as_json=True)
        return
    if best is None:
        print_front(show.open_console(), found)
        quoted = f"{shlex.quote(name)}{there}"
        print(f"more: hpo front {quoted} --figure front.png   |   hpo promote {quoted} --trial N")
        return
    metric = summary.metric or "value"
    print(f"best {metric} = {show.number(best.value)} in trial {best.number}: {show.params_text(best.params)}")
    target = shlex.quote(summary.task or summary.family)
    runs = "hpo ui   |   " if server is None else ""  # a service shows MLflow on its own pages
    print(f"more: hpo show {shlex.quote(name)}{there}   |   {runs}hpo stats {target}{there}")


class Display:
    """A live bar in a terminal; elsewhere one line per finished trial."""

    def __init__(
        self, console: Console, *, describe: Callable[[Progress], str] | None = None, unit: str = "trials"
    ) -> None:
        self._console, self._describe, self._unit = console, describe or _describe, unit
        self._bar = ProgressBar(
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting the trainer", total=None)
        self._finished = -1

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, progress: Progress) -> None:
        """Bring the display up to date."""
        text = self._describe(progress)
        self._bar.update(self._task, total=progress.total, completed=progress.finished, description=escape(text))
        if progress.finished != self._finished and not self._console.is_terminal:
            total = "" if progress.total is None else f"/{progress.total}"
            parts = [f"{progress.finished}{total} {self._unit}", *filter(None, [text])]
            print(", ".join(parts), file=sys.stderr, flush=True)
        self._finished = progress.finished

    def say(self, message: str) -> None:
        """A message above the bar."""
        self._console.print(escape(message), soft_wrap=True)


def _describe(progress: Progress) -> str:
    parts = []
    if progress.best_value is not None:
        whose = "" if progress.best_number is None else f" (trial {progress.best_number})"
        parts.append(f"best {show.number(progress.best_value)}{whose}")
    if progress.unbeaten:
        parts.append(f"{progress.unbeaten} on the front")
    if progress.pruned:
        parts.append(f"{progress.pruned} pruned")
    if progress.failed:
        parts.append(f"{progress.failed} failed")
    if progress.running:
        parts.append(f"{progress.running} running")
    if progress.seconds_left:
        parts.append(f"{show.duration(progress.seconds_left)} left")
    return ", ".join(parts) or ("" if progress.finished else "the first trials are training")
