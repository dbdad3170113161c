"""`hpo replay --server`: a service replays its own history as a job. Ctrl-C only stops looking on."""

from __future__ import annotations

import shlex

import typer

from hpo.cli.replay_files import ReplayFiles
from hpo.cli.source import PATIENCE_SECONDS
from hpo.client.client import Client
from hpo.errors import ServiceError, SettingsError
from hpo.replay.race import Progress
from hpo.replay.report import Report
from hpo.replay.runs import Run, read_runs
from hpo.replay.whole import ReplayOptions

ASKED = ("methods", "regime", "budget", "seeds", "tasks", "rows", "family", "baseline")  # of a service


def replay_on_server(
    options: ReplayOptions,
    server: str,
    *,
    job: int | None,
    files: ReplayFiles | None,
    fresh: bool,
    progress: Progress,
) -> tuple[Report, list[Run]]:
    """The report of a replay by a service, and its runs, which are written down where there are files for them.

    None where the service has them no more. job: one that was asked for before. Raises SettingsError, StudyFailedError
    for the reason that the service tells of.
    """
    asked = {name: getattr(options, name) for name in ASKED} | {"methods": list(options.methods)}
    _check(options, job, files, fresh=fresh)
    with Client(server, patience_seconds=PATIENCE_SECONDS) as client:
        number = client.start_replay(**asked)["id"] if job is None else job
        report = _report(client, number, files, fresh=fresh, progress=progress)
        for note in report.setting.skipped:
            typer.echo(note, err=True)
        return report, [] if files is None else _runs(client, number, files)


def check_methods(methods: str | None) -> None:
    """Raises SettingsError for a method of one's own, which is not to be imported here either."""
    own = [name for name in (methods or "").split(",") if ":" in name]
    if own:
        raise SettingsError(
            f"--methods {own[0].strip()}: a service runs no code of yours; replay a history or a table here"
        )


def _check(options: ReplayOptions, job: int | None, files: ReplayFiles | None, *, fresh: bool) -> None:
    """Raises SettingsError for what a service does not do."""
    if options.jobs > 1:
        raise SettingsError(f"--jobs {options.jobs}: a service replays in one process; leave it out")
    if files is not None and files.runs.exists() and not fresh:
        why = "a service begins anew" if job is None else f"the runs of job {job} would take its place"
        raise SettingsError(f"{files.runs} is there already, and {why}; --fresh overwrites it")
    plain = ReplayOptions(source="")
    given = [name for name in ASKED if getattr(options, name) != getattr(plain, name)]
    if job is not None and given:
        raise SettingsError(f"--job {job} was asked for already: leave out --{', --'.join(given)}")


def _runs(client: Client, number: int, files: ReplayFiles) -> list[Run]:
    """The runs of a job, in their file; none once the service has them no more. What the file has then stays."""
    try:
        client.save_job_file(number, files.runs, overwrite=True)
    except ServiceError as error:
        if error.code != "not-done":
            raise
        there = [path.name for path in (files.runs, files.picture) if path.exists()]
        left = f"; left as it was: {', '.join(there)}" if there else ""
        typer.echo(f"the runs are gone there, and without them no picture is drawn: {error}{left}", err=True)
        files.runs.touch()  # by which the others are known as a replay's
        return []
    return read_runs(files.runs)


def _report(client: Client, number: int, files: ReplayFiles | None, *, fresh: bool, progress: Progress) -> Report:
    try:
        return client.finished_replay(number, tell=lambda done, total: progress(done, total or 0))
    except KeyboardInterrupt:
        out = [] if files is None else ["--out", str(files.json.with_suffix("")), *(["--fresh"] if fresh else [])]
        again = shlex.join(["hpo", "replay", "--job", str(number), *out, "--server", client.transport.url])
        typer.echo(
            f"detached; the replay goes on there, and {client.transport.url}/imports/{number} shows it. "
            f"Look on again with: {again}",
            err=True,
        )
        raise
