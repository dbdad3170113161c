"""Running a study: ask, train, report, prune and record, until the budget is spent."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna import Trial
from optuna.trial import TrialState

from hpo.errors import SpecError, StudyFailedError
from hpo.running.admission import admit
from hpo.running.attempts import HALVED_BATCH, drop_checkpoints, fit_job, folder_of, study_folder
from hpo.running.budgets import SECONDS_SPENT, is_out_of_time, trials_left, why_not_measured, why_nothing_works
from hpo.running.creation import create_study, make_way, name_objectives
from hpo.running.delivery import Delivery
from hpo.running.executors import HERE, Placement, make_executor
from hpo.running.gpu_sharing import trials_per_device
from hpo.running.interrupts import Interrupts
from hpo.running.outage import Outage
from hpo.running.plan import Plan
from hpo.running.results import FOLDER, Results, deliver
from hpo.running.tuner import tuned_study
from hpo.settings import mlflow_uri, refuse_shared_database, runs_folder, storage_url
from hpo.studies.front import unbeaten
from hpo.studies.hidden_choices import hide_choices
from hpo.studies.provenance import fingerprint, git_commit, hardware, may_be_alive, this_worker
from hpo.studies.spec import Stop, StudySpec
from hpo.studies.study_file import load_spec, parse_spec
from hpo.studies.teachers import compress_section
from hpo.studies.trainer_settings import describe_data, trainer_config
from hpo.tuning.stopping import Stopper
from storage import history, studies
from storage.errors import StaleAttemptError, StudyNotFoundError
from storage.optuna_storage import HistoryStorage
from storage.privacy import current
from storage.schema import open_store
from storage.spool import Finish, Release, Report, Spool
from trainers.errors import TrainerError
from trainers.job import OUTPUT_LOG, Event, Failed, Finished, Reported

LEASE_SECONDS = 60.0  # a worker that is silent for longer has lost its trials
HEARTBEAT_SECONDS = 15.0
POLL_SECONDS = 0.2
PATIENCE_SECONDS = 1800.0  # with nothing left to train, how long to wait for a history that cannot be reached
CALL_SECONDS = 3.0  # how long a call waits for it: trials wait meanwhile, and go on without it after that


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a study is."""

    study: str
    total: int | None  # trials in the budget; None where only hours bound it
    finished: int  # complete, pruned or failed, those of earlier sittings included
    pruned: int
    failed: int
    running: int
    best_value: float | None  # None too where there are several objectives
    best_number: int | None
    unbeaten: int | None = None  # trials on the front, where there are several objectives
    seconds_left: float | None  # estimated; None before the first trial has finished


@dataclass(frozen=True, kw_only=True)
class Watcher:
    """What wants to know how a study goes on."""

    progress: Callable[[Progress], None] = lambda progress: None
    notice: Callable[[str], None] = lambda message: None


def tune(
    study: StudySpec | Mapping[str, Any] | str | Path,
    *,
    storage: str | None = None,
    mlflow: str | None = None,
    runs: str | Path | None = None,
    trials: int | None = None,
    jobs: int = 1,
    stop: str | None = None,
    resume: bool = False,
    executor: str = "local",
    ray_address: str | None = None,
    launch: str | None = None,
    launch_host: str | None = None,
    watcher: Watcher | None = None,
) -> optuna.Study:
    """Run a study and return it as an Optuna study, whose trials are history for the next.

    study: a study file, or its content as a mapping. storage: SQLAlchemy URL of the history. mlflow: tracking URI, or
    `none`. runs: folder for checkpoints and outputs. trials: overrides the budget's. jobs: trials side by side.
    stop: overrides the file's: `none`, `auto`, `gain=0.002`, `cost`. resume: go on with a study of that name.
    executor: where trials run: `local`, or `ray` with `ray_address` (None: RAY_ADDRESS, else one on this machine).
    launch: a command line that starts each trial's processes, e.g. `srun {command}`, which reach this machine at
    `launch_host`.
    Raises SettingsError, SpecError, StudyExistsError, DirectionError, StudyFailedError, StorageError or TrainerError.
    """
    placement = Placement(executor=executor, ray_address=ray_address, launch=launch, launch_host=launch_host)
    spec, folder = _resolve_study(study, trials, stop)
    runner = StudyRunner(
        spec,
        folder=folder,
        storage=storage,
        mlflow=mlflow,
        runs=runs,
        jobs=jobs,
        placement=placement,
        watcher=watcher or Watcher(),
    )
    return runner.run(resume=resume)


def _resolve_study(
    study: StudySpec | Mapping[str, Any] | str | Path, trials: int | None, stop: str | None
) -> tuple[StudySpec, Path]:
    if isinstance(study, StudySpec):
        return study, Path.cwd()
    if isinstance(study, Mapping):
        return parse_spec(study, trials=trials, stop=stop), Path.cwd()
    return load_spec(Path(study), trials=trials, stop=stop), Path(study).resolve().parent


@dataclass
class _Running:
    claim: studies.Claim
    directory: Path
    is_launched: bool = False


class StudyRunner:
    """One process's work on one study; several may share a study, each trial is claimed by one of them."""

    def __init__(
        self,
        spec: StudySpec,
        *,
        folder: Path,
        storage: str | None,
        mlflow: str | None,
        runs: str | Path | None,
        jobs: int,
        watcher: Watcher,
        placement: Placement = HERE,
        plan: Plan | None = None,  # what to train; None: what the tuner proposes
        is_served: bool = False,  # by a service, which has made the study, and delivers its results to MLflow
    ) -> None:
        if jobs < 1:
            raise SpecError(f"jobs = {jobs} is not at least 1")
        spec.training  # noqa: B018  raises SpecError where there is none
        self._plan, self._placement, self._is_served = plan, placement, is_served
        self._spec, self._meanings = hide_choices(spec, current())
        self._folder, self._jobs, self._watcher = folder, jobs, watcher
        self._storage_url, self._mlflow, self._runs = storage_url(storage), mlflow, runs_folder(runs)
        self._worker = this_worker()
        self._running: dict[int, _Running] = {}
        self._outage = Outage(watcher.notice)
        self._spool = Spool(self._runs / FOLDER)
        self._last_heartbeat = time.time()

    def run(self, *, resume: bool) -> optuna.Study:
        """Open or create the study, spend its budget, and see everything delivered."""
        refuse_shared_database(self._storage_url, mlflow_uri(self._mlflow))
        self._store = open_store(self._storage_url, patience_seconds=CALL_SECONDS)
        self._storage = HistoryStorage(self._store)
        for notice in deliver(self._store, self._spool):  # before anybody trains anew what is finished
            self._watcher.notice(notice)
        existing = self._found(resume=resume)
        self._executor = make_executor(
            self._placement,
            trainer_config(
                self._spec,
                folder=self._folder,
                threads=self._placement.threads(jobs=self._jobs, devices=self._spec.training.devices or 1),
                trials_per_device=trials_per_device(self._spec, self._store),
                compress=compress_section(self._spec, self._store, folder=self._folder),
            ),
            jobs=self._jobs,
            resources=self._spec.training.resources,
            notice=self._watcher.notice,
        )
        self._executor.start(self._spec.space)  # imports the user's classes: a study that cannot train is not created
        with self._executor:
            if existing is None:
                self._create_study(resume=resume)
            else:
                self._go_on_with(existing)
            self._study = self._load_study()
            created_at = history.get_study(self._store, self._spec.study).created_at
            self._folder_of_runs = study_folder(
                self._runs, self._spec.study, store_url=self._store.url, created_at=created_at
            )
            self._results = Results(
                self._store,
                self._spool,
                self._outage,
                study=self._spec.study,
                created_at=created_at.timestamp(),
                notice=self._watcher.notice,
            )
            self._code_version = git_commit(self._folder)
            with self._delivery(), Interrupts() as interrupts:
                self._spend_budget(interrupts)
        return self._study

    # The study ------------------------------------------------------------------------------------------------------

    def _found(self, *, resume: bool) -> history.StudySummary | None:
        """The study to go on with; None where a new one is to be made."""
        if self._is_served:
            return history.get_study(self._store, self._spec.study)
        if self._plan is None:
            return admit(self._store, self._spec, resume=resume)
        try:
            return history.get_study(self._store, self._spec.study)
        except StudyNotFoundError:
            return None

    def _create_study(self, *, resume: bool) -> None:
        way = make_way(self._store, self._spec.study)
        if way:
            self._watcher.notice(f"study {self._spec.study!r} had no result and is started anew")
        elif way is None and resume:
            self._watcher.notice(f"there is no study {self._spec.study!r} to resume: starting it")
        self._mlflow_uri = mlflow_uri(self._mlflow)
        self._study_id = create_study(
            self._store,
            self._spec,
            folder=self._folder,
            mlflow_uri=self._mlflow_uri,
            is_planned=self._plan is not None,
        )

    def _go_on_with(self, existing: history.StudySummary) -> None:
        self._study_id = existing.study_id
        self._mlflow_uri = mlflow_uri(self._mlflow, otherwise=existing.mlflow_uri)
        if self._mlflow_uri != existing.mlflow_uri:
            studies.set_mlflow_uri(self._store, self._study_id, self._mlflow_uri)
        studies.reclaim_dead_workers(self._store, self._study_id, is_alive=may_be_alive)

    def _load_study(self) -> optuna.Study:
        name_objectives(self._store, self._study_id, self._spec)
        return tuned_study(self._storage, self._spec)

    def _delivery(self) -> AbstractContextManager[Any]:
        if self._is_served:
            return nullcontext()
        return Delivery(
            storage_url=self._store.url,
            study_id=self._study_id,
            study_name=self._spec.study,
            mlflow_uri=self._mlflow_uri,
            notice=self._watcher.notice,
        )

    # The loop -------------------------------------------------------------------------------------------------------

    def _spend_budget(self, interrupts: Interrupts) -> None:
        self._started = time.monotonic()
        self._spent_before = float(self._study.user_attrs.get(SECONDS_SPENT, 0.0))
        self._stopper = Stopper(
            self._study,
            self._spec.stop if self._plan is None else Stop(rule="none"),
            budget=self._spec.budget,
            trials_left=self._trials_left,
            metric=self._spec.task.metric,
            notice=self._watcher.notice,
        )
        try:
            self._tell_progress()
            while self._start_trials() or self._running or self._outage.is_on:
                interrupts.check()
                for event in self._executor.poll(POLL_SECONDS):
                    self._handle(event)
                self._tell_progress()
                if not self._running:
                    self._outage.give_up(after_seconds=PATIENCE_SECONDS)
        finally:
            self._abandon_running()
            self._outage.attempt(self._note_seconds_spent, otherwise=None)
            self._results.close()

    def _start_trials(self) -> bool:
        """Fill the free places; whether any trial was started."""
        if not self._outage.is_over(self._catch_up):
            return False
        return self._outage.attempt(self._fill_places, otherwise=False)

    def _fill_places(self) -> bool:
        started = False
        self._keep_leases()
        most = self._spec.budget.trials if self._plan is None else self._plan.extend(self._study)
        for running in [running for running in self._running.values() if not running.is_launched]:
            self._launch(running)  # the history went away while it was
        while len(self._running) < self._jobs and not self._is_out_of_time() and not self._stopper.is_done():
            claim = studies.claim_trial(
                self._store,
                self._study_id,
                worker=self._worker,
                lease_seconds=LEASE_SECONDS,
                max_trials=most,
                holding=self._running.keys(),
            )
            if claim is None:
                break
            directory = folder_of(self._folder_of_runs, number=claim.number, attempt=claim.attempt)
            self._running[claim.trial_id] = _Running(claim, directory)
            self._launch(self._running[claim.trial_id])
            started = True
        return started

    def _launch(self, running: _Running) -> None:
        claim = running.claim
        params, seed = self._job(claim)
        try:
            studies.start_trial(
                self._store,
                claim,
                params=params,
                seed=seed,
                code_version=self._code_version,
                data_fingerprint=self._data_fingerprint(),
                hardware=hardware(),
            )
        except StaleAttemptError as error:
            self._lose(running, error)
            return
        halve = self._is_to_be_halved(claim)
        job = fit_job(self._spec, running.directory, params=self._meanings.of(params), seed=seed, halve_batch=halve)
        self._executor.launch(claim.trial_id, job)
        running.is_launched = True

    def _is_to_be_halved(self, claim: studies.Claim) -> bool:
        return claim.attempt > 1 and bool(self._storage.get_trial(claim.trial_id).system_attrs.get(HALVED_BATCH))

    def _job(self, claim: studies.Claim) -> tuple[dict[str, Any], int]:
        if self._plan is not None:
            return self._plan.job(self._storage.get_trial(claim.trial_id))
        return self._spec.search_space().suggest(Trial(self._study, claim.trial_id)), self._spec.seeds.training

    def _handle(self, event: Event) -> None:
        running = self._running.get(event.key)
        if running is None:
            return  # abandoned: its lease was lost
        try:
            if isinstance(event, Reported):
                self._report(running, event)
            elif isinstance(event, Finished):
                del self._running[event.key]
                self._finish(running, event)
            else:
                del self._running[event.key]
                self._fail(running, event)
        except StaleAttemptError as error:
            self._lose(running, error)

    def _report(self, running: _Running, event: Reported) -> None:
        report = Report(step=event.epoch, value=event.value, metrics=dict(event.metrics))
        self._results.report(running.claim, report)
        prune = False
        if event.value is not None:
            prune = self._outage.attempt(lambda: self._is_to_be_pruned(running.claim), otherwise=False)
        self._executor.answer(event.key, prune=prune)

    def _is_to_be_pruned(self, claim: studies.Claim) -> bool:
        return bool(self._study.pruner.prune(self._study, self._storage.get_trial(claim.trial_id)))

    def _finish(self, running: _Running, event: Finished) -> None:
        outcome = event.outcome
        end = Finish(
            state=TrialState.PRUNED if outcome.pruned else TrialState.COMPLETE,
            value=outcome.value,
            more_values=outcome.more_values,
            measured=outcome.measured,
            notes=outcome.notes,
            cost_seconds=outcome.seconds,
            epochs=outcome.epochs,
            peak_memory_bytes=outcome.peak_memory_bytes,
            checkpoint=outcome.checkpoint,
            finished_at=time.time(),
        )
        self._results.end(running.claim, end)
        drop_checkpoints(running.directory, kept=None if self._spec.training.keep_folds else outcome.checkpoint)
        for note in outcome.notes:
            self._watcher.notice(f"trial {running.claim.number} {note}")
        self._outage.attempt(self._note_seconds_spent, otherwise=None)

    def _fail(self, running: _Running, event: Failed) -> None:
        claim = running.claim
        if event.kind in ("killed", "stalled"):
            log = running.directory / OUTPUT_LOG
            is_tried_again = self._results.end(claim, Release(reason=f"{event.reason} ({_printed(log)})", counts=True))
            if not is_tried_again:
                drop_checkpoints(running.directory)
            again = "; it is tried again" if is_tried_again else ""
            self._watcher.notice(f"trial {claim.number}: {event.reason}{again}; {_printed(log)}")
            return
        reason = f"{event.kind}: {event.reason}"
        if event.kind == "out_of_memory" and self._is_halved_and_released(claim, reason):
            self._watcher.notice(f"trial {claim.number} ran out of memory; it is tried once more at half the batch")
            return
        log = running.directory / OUTPUT_LOG
        failure = Finish(
            state=TrialState.FAIL, value=None, notes=[_printed(log)], error=reason, finished_at=time.time()
        )
        self._results.end(claim, failure)
        drop_checkpoints(running.directory)
        tail = "".join(f"\n    {line}" for line in event.output_tail.strip().splitlines()[-6:])
        told = f"{tail}\n    {_printed(log)}" if tail else ""
        self._watcher.notice(f"trial {claim.number} failed: {event.reason}{told}")
        if event.kind == "missing_metric":
            raise StudyFailedError(why_not_measured(self._spec.task, event.reason))
        self._stop_if_nothing_works(reason, running.directory)

    def _is_halved_and_released(self, claim: studies.Claim, reason: str) -> bool:
        """Whether a trial that ran out of memory goes back to the queue, marked so that whoever takes it halves it."""

        def mark() -> bool:
            if self._is_to_be_halved(claim):
                return False
            self._storage.set_trial_system_attr(claim.trial_id, HALVED_BATCH, value=True)
            return True

        allowed = self._spec.training.on_out_of_memory == "halve_batch"
        if not allowed or not self._outage.attempt(mark, otherwise=False):
            return False
        return self._results.end(claim, Release(reason=reason))

    def _stop_if_nothing_works(self, reason: str, directory: Path) -> None:
        trials = self._outage.attempt(lambda: self._study.get_trials(deepcopy=False), otherwise=[])
        why = why_nothing_works([trial.state for trial in trials], self._spec.budget)
        if why is not None:
            raise StudyFailedError(f"{why}; the last: {reason}\nits whole output: {directory / 'output.log'}")

    def _catch_up(self) -> None:
        """What is done first when the history is back: keep our trials, and bring what they brought meanwhile."""
        self._last_heartbeat = 0.0
        self._keep_leases()
        self._results.catch_up()
        self._note_seconds_spent()

    def _keep_leases(self) -> None:
        if not self._running or time.time() - self._last_heartbeat < HEARTBEAT_SECONDS:
            return
        self._last_heartbeat = time.time()  # the wall clock: leases go on while a laptop sleeps
        claims = [running.claim for running in self._running.values()]
        ours = studies.extend_leases(self._store, claims, worker=self._worker, lease_seconds=LEASE_SECONDS)
        for trial_id in set(self._running) - ours:
            self._lose(self._running[trial_id], "its lease went to another worker; stopped here")

    def _lose(self, running: _Running, reason: object) -> None:
        """Stop a trial that is not ours any more."""
        self._running.pop(running.claim.trial_id, None)
        self._results.lose(running.claim)
        self._executor.kill(running.claim.trial_id)
        self._watcher.notice(f"trial {running.claim.number}: {reason}")

    def _abandon_running(self) -> None:
        """Give back what is still running (after Ctrl-C or an error): it goes on when the study is resumed."""
        while self._running:
            trial_id, running = self._running.popitem()
            with suppress(TrainerError):  # it ends with the executor at the latest
                self._executor.kill(trial_id)
            with suppress(StaleAttemptError):  # another worker has it by now
                self._results.end(running.claim, Release(reason="interrupted"))

    # Facts ----------------------------------------------------------------------------------------------------------

    def _data_fingerprint(self) -> str | None:
        data = describe_data(self._spec, folder=self._folder)
        return None if data is None else fingerprint(data)

    def _seconds_spent(self) -> float:
        return self._spent_before + time.monotonic() - self._started

    def _is_out_of_time(self) -> bool:
        return is_out_of_time(self._spec.budget, self._seconds_spent())

    def _trials_left(self, finished: int) -> int:
        return trials_left(self._spec.budget, finished, self._seconds_spent())

    def _note_seconds_spent(self) -> None:
        self._study.set_user_attr(SECONDS_SPENT, self._seconds_spent())

    def _tell_progress(self) -> None:
        trials = self._outage.attempt(lambda: self._study.get_trials(deepcopy=False), otherwise=None)
        if trials is None:
            return
        states = [trial.state for trial in trials]
        best, unbeaten = _best_of(trials, self._spec.task.directions)
        finished = sum(state.is_finished() for state in states)
        self._watcher.progress(
            Progress(
                study=self._spec.study,
                total=self._spec.budget.trials,
                finished=finished,
                pruned=states.count(TrialState.PRUNED),
                failed=states.count(TrialState.FAIL),
                running=len(self._running),
                best_value=None if best is None else best.value,
                best_number=None if best is None else best.number,
                unbeaten=unbeaten,
                seconds_left=self._seconds_left(finished),
            )
        )

    def _seconds_left(self, finished: int) -> float | None:
        """From the mean time of a trial so far, and from the budget's hours; the smaller of both."""
        budget, estimates = self._spec.budget, []
        if budget.trials is not None and finished:
            estimates.append(self._seconds_spent() / finished * (budget.trials - finished))
        if budget.hours is not None:
            estimates.append(budget.hours * 3600 - self._seconds_spent())
        return max(0.0, min(estimates)) if estimates else None


def _printed(log: Path) -> str:
    return f"what it printed: {log}"


def _best_of(
    trials: list[optuna.trial.FrozenTrial], directions: list[str]
) -> tuple[optuna.trial.FrozenTrial | None, int | None]:
    """The best trial where there is one objective, else how many trials are on the front."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE and trial.values]
    if len(directions) > 1:
        return None, sum(unbeaten([trial.values for trial in complete], directions))
    if not complete:
        return None, None
    better = max if directions[0] == "maximize" else min
    return better(complete, key=lambda trial: trial.values[0]), None
