"""Trials for whoever trains them elsewhere: they are asked for, reported on, and told.

A trial is handed out under a lease by the database's clock, so that the clocks of those who train do not matter; its
attempt is the number by which whoever lost it is refused. What is asked for again under the same name is the same
trial, and what is told again is recorded once: nothing here is remembered that a restart could lose.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from optuna.trial import FrozenTrial, TrialState

from hpo.errors import ServiceUnavailableError, SettingsError, SpecError, StudyOverError, StudyPausedError
from hpo.running.ahead import Proposed
from hpo.running.attempts import HALVED_BATCH
from hpo.service.asked_study import AskedStudy
from hpo.service.limits import Limits
from hpo.service.proposer import Proposer
from hpo.service.turns import Gate, order_of
from hpo.tuning.receipts import ENQUEUED, RECEIPT
from storage import history, launches, machines, studies, tokens
from storage.database import Store
from storage.errors import StaleAttemptError, StudyNotFoundError, TrialNotFoundError
from storage.launches import ACTIVE, Launch
from storage.optuna_storage import HistoryStorage
from storage.privacy import OWN_WORKER
from storage.studies import Claim
from storage.trial_pages import trial_numbered

PROPOSAL_SECONDS = 20.0  # that somebody waits for a proposal, before he is asked to come again
KNOWN_SECONDS = 5.0  # after which a study's file is looked at again
FORGOTTEN_SECONDS = 3600.0  # after the last request for a study, what is known of it
ROLL_CALL_SECONDS = 3600.0  # between two looks for machines that are silent
IDS_KEPT = 10_000  # of trials that were handed out
ASIDE_SECONDS = 30.0  # that workers are given other studies, where nothing could be proposed for one

logger = logging.getLogger(__name__)

Told = Literal["complete", "pruned", "fail"]


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """A trial that somebody is to train."""

    study_id: int
    study: str  # its name
    trial: int  # its number
    attempt: int  # 1, 2, ...: valid until somebody else is given the next one
    params: Mapping[str, Any]
    seed: int
    lease_seconds: float
    halve_batch: bool  # it ran out of memory before: train with half the batch
    content: Mapping[str, Any]  # the study file
    created_at: float  # of the study, in seconds since the epoch


@dataclass(frozen=True, kw_only=True, eq=False)
class Begun:
    """A trial that was claimed for somebody, and may yet have to wait for its parameters."""

    claim: Claim
    lease_seconds: float
    known: FrozenTrial
    proposal: Future[Proposed] | None  # None: it has its parameters
    is_named: bool  # whoever asks again by that name is given the same trial
    study: AskedStudy


@dataclass(frozen=True, kw_only=True)
class Held:
    """A trial that somebody holds, as he names it."""

    study_id: int
    trial: int  # its number
    attempt: int


class Desk:
    """Hands out the trials of studies and takes what becomes of them; safe for any number of threads."""

    def __init__(self, store: Store, *, limits: Limits | None = None, proposer: Proposer | None = None) -> None:
        self._store, self._storage = store, HistoryStorage(store)
        self._proposer = proposer or Proposer(store)
        self._limits = limits or Limits()
        self._studies: dict[int, tuple[float, AskedStudy]] = {}  # with when each was looked at
        self._aside: dict[int, float] = {}  # studies that workers are not given, until then
        self._ids: dict[tuple[int, int], int] = {}  # of trials, by study and number
        self._next_roll_call = 0.0
        self._making: dict[int, threading.Lock] = {}  # of studies that were looked at
        self._lock = threading.Lock()

    def close(self) -> None:
        """Make no more proposals."""
        self._proposer.close()

    def is_awaited(self) -> bool:
        """Whether somebody may ask soon: a study waits for workers, or somebody holds a token for nothing else."""
        active = launches.list_launches(self._store, ACTIVE)
        return any(launch.place == "workers" for launch in active) or tokens.has_tokens(self._store, roles=("worker",))

    def get_ready(self) -> None:
        """Somebody may ask soon: what takes its time is prepared meanwhile. Returns at once."""
        self._proposer.warm()

    # Handing out ----------------------------------------------------------------------------------------------------

    def ask(self, study_id: int, *, worker: str, lease_seconds: float, request: str | None = None) -> Assignment | None:
        """The next trial of a study; None where there is none just now, but may be later.

        request: names what is asked: whoever asks again under that name is given the same trial while it runs.
        Raises StudyNotFoundError, StudyPausedError, StudyOverError, SpecError, ServiceUnavailableError.
        """
        begun = self.begin(study_id, worker=worker, lease_seconds=lease_seconds, request=request)
        return None if begun is None else self.hand_out(begun)

    def begin(self, study_id: int, *, worker: str, lease_seconds: float, request: str | None = None) -> Begun | None:
        """Claim the next trial, and see to it that it gets its parameters. As `ask`; `hand_out` must follow."""
        study = self._study(study_id)
        launch = launches.find_launch(self._store, study_id)
        _refuse_where_not_wanted(study, launch)
        study.work_goes_on()
        over = study.why_over()
        if over is not None:
            self._end(study, launch, over)
        gate = Gate(self._limits, study_id, asker=worker.partition("/")[0])
        if not gate.is_open(self._store) and not self._is_given(study_id, request):
            return None  # without a transaction of its own
        claim = self._claim(study, worker, lease_seconds, request, gate)
        if claim is None and gate.is_refused:
            return None
        if claim is None:
            self._end_where_spent(study, launch)
            return None
        known = self._storage.get_trial(claim.trial_id)
        proposal = None
        if ENQUEUED not in known.system_attrs and not study.is_complete(known.params):
            running = studies.count_running(self._store, study_id)
            proposal = self._proposer.take(study_id, study.content, running=running)
        return Begun(
            claim=claim,
            lease_seconds=lease_seconds,
            known=known,
            proposal=proposal,
            is_named=request is not None,
            study=study,
        )

    def hand_out(self, begun: Begun, *, hardware: str | None = None, code_version: str | None = None) -> Assignment:
        """The trial with its parameters, once there are some; all of it is in the history before anybody hears of it.

        hardware, code_version: with what it is trained, where that is known.
        Raises ServiceUnavailableError where nothing could be proposed in time, as when much has to be learned first:
        then the trial waits under its lease for whoever asks again by the same name, or is back in the queue.
        """
        try:
            return self._handed_out(begun, hardware=hardware, code_version=code_version)
        except StaleAttemptError as error:
            raise ServiceUnavailableError(f"the lease of trial {begun.claim.number} ended before it began") from error

    def give_up(self, begun: Begun, reason: str) -> None:
        """Do not hand out a trial after all."""
        if begun.proposal is not None and not begun.proposal.cancel():
            begun.proposal.add_done_callback(
                lambda done: None if done.exception() else self._proposer.placed(begun.study.study_id, done.result())
            )
        if not begun.is_named:
            studies.release_trial(self._store, begun.claim, reason=reason)

    def work(
        self,
        *,
        worker: str,
        devices: int,
        lease_seconds: float,
        study: str | None = None,
        without: Collection[int] = (),
        request: str | None = None,
    ) -> Begun | None:
        """A trial of any study that workers train: by priority, and fairly among owners.

        devices: that the worker has for it; studies whose trials need more are passed over. study: only of that name.
        without: studies that it cannot train. None: nothing just now. A study without `trainer` is not for workers, but
        for programs that ask for its trials. One that cannot be read, or for which nothing can be proposed, holds up
        none of the others.
        """
        pulled = [
            launch
            for launch in launches.list_launches(self._store, ACTIVE)
            if launch.place == "workers" and launch.wanted == "run" and launch.state == "running"
        ]
        ids, given = [launch.study_id for launch in pulled], None
        if request is not None:
            given = studies.study_of_request(self._store, ids, request)
        for launch in sorted(order_of(pulled), key=lambda launch: launch.study_id != given):
            if launch.devices > devices or launch.study_id in without or study not in (None, launch.study):
                continue
            if launch.study_id != given and self._aside.get(launch.study_id, 0.0) > time.monotonic():
                continue
            try:
                if self._study(launch.study_id).spec.trainer is None:
                    continue
                begun = self.begin(launch.study_id, worker=worker, lease_seconds=lease_seconds, request=request)
            except (StudyOverError, StudyPausedError, StudyNotFoundError):
                continue  # it came to its end just now
            except SpecError as error:
                logger.warning("study %s is not given to workers: %s", launch.study, error)
                continue
            if begun is not None:
                return begun
        return None

    # What becomes of them -------------------------------------------------------------------------------------------

    def report(
        self,
        held: Held,
        *,
        step: int,
        value: float | None,
        metrics: Mapping[str, float] | None = None,
        owner: str | None = None,
    ) -> bool:
        """Note what a trial reports at a step; returns whether it is to be pruned.

        owner: whose workers alone may have the trial, here and below; None: whoever. Raises StaleAttemptError.
        """
        study, claim = self._study(held.study_id), self._claim_of(held, owner)
        study.work_goes_on()
        studies.report(self._store, claim, step=step, value=value, metrics=metrics)
        return value is not None and study.is_to_be_pruned(claim.trial_id)

    def should_prune(self, held: Held, *, owner: str | None = None) -> bool:
        """Whether a trial is to be pruned, by what it has reported. Raises StaleAttemptError."""
        study, claim = self._study(held.study_id), self._claim_of(held, owner)
        studies.check_attempt(self._store, claim)
        return study.is_to_be_pruned(claim.trial_id)

    def check(self, held: Held, *, owner: str | None = None) -> None:
        """Raises StaleAttemptError where a trial is not in the hands of the owner with that attempt."""
        studies.check_attempt(self._store, self._claim_of(held, owner))

    def tell(
        self,
        held: Held,
        *,
        state: Told,
        values: Sequence[float] | None = None,
        error: str | None = None,
        measured: Mapping[str, float] | None = None,
        notes: Sequence[str] = (),
        cost_seconds: float | None = None,
        epochs: int | None = None,
        peak_memory_bytes: int | None = None,
        checkpoint: str | None = None,
        study_error: str | None = None,
        owner: str | None = None,
    ) -> None:
        """End a trial. A value that is no finite number is a failure; that of a pruned trial may be its last report.

        study_error: why no other trial of the study can do better: a study that was launched for workers ends with it.
        Raises SettingsError for values that do not go with the study; StaleAttemptError: the values are kept even so.
        """
        study, claim = self._study(held.study_id), self._claim_of(held)
        is_anothers = self._is_anothers(claim, owner)
        if not is_anothers:
            study.work_goes_on()
        if values is None and state == "pruned":
            ending, reason = TrialState.PRUNED, error
            told = [] if is_anothers else self._last_report(study, claim)
        else:
            ending, told, reason = _ending(study, state, values, error)
        if is_anothers and owner is not None:
            studies.refuse_outcome(self._store, claim, state=ending, value=told[0] if told else None, teller=owner)
        studies.finish_trial(
            self._store,
            claim,
            state=ending,
            value=told[0] if told else None,
            more_values=told[1:],
            measured=measured,
            notes=notes,
            cost_seconds=cost_seconds,
            epochs=epochs,
            peak_memory_bytes=peak_memory_bytes,
            checkpoint=checkpoint,
            error=reason,
            teller=owner,
        )
        self._heard_of_end(study, has_failed=ending == TrialState.FAIL, study_error=study_error)

    def release(
        self, held: Held, *, reason: str, counts: bool = False, halve_batch: bool = False, owner: str | None = None
    ) -> bool:
        """Give a trial back; returns whether it will be tried again.

        counts: its process died. halve_batch: it ran out of memory, and is to be tried with half the batch, if it was
        not already: then it fails. Raises StaleAttemptError.
        """
        study, claim = self._study(held.study_id), self._claim_of(held, owner)
        is_tried_again = True
        if halve_batch:
            studies.check_attempt(self._store, claim)
            halved = self._storage.get_trial(claim.trial_id).system_attrs.get(HALVED_BATCH)
            is_tried_again = halved in (None, False, claim.attempt)  # the attempt that was first to run out of memory
            if is_tried_again:
                self._storage.set_trial_system_attr(claim.trial_id, HALVED_BATCH, value=claim.attempt)
            else:
                studies.finish_trial(self._store, claim, state=TrialState.FAIL, value=None, error=reason)
        if is_tried_again:
            is_tried_again = studies.release_trial(self._store, claim, reason=reason, counts=counts)
        if not is_tried_again:
            self._heard_of_end(study, has_failed=True)
        return is_tried_again

    def hear_of_late_result(self, study_id: int) -> None:
        """A value that had come too late counts: propose with it, and let a study end whose last trial has it."""
        with suppress(SpecError):  # of another program, whose trials are not asked for here
            self._heard_of_end(self._study(study_id), has_failed=False)

    def look_after(self) -> None:
        """Let the studies end that are over, but for trials whose workers are gone: nobody asks for these any more.

        Forget studies and machines that nobody has heard of for long. To be called now and then.
        """
        self._forget_silent()
        for launch in launches.list_launches(self._store):
            if launch.place != "workers" or not studies.count_running(self._store, launch.study_id):
                continue
            try:
                study = self._study(launch.study_id)
            except (SpecError, StudyNotFoundError):
                continue
            is_over = launch.state not in ACTIVE or study.why_over() is not None
            if is_over and studies.requeue_expired(self._store, launch.study_id):
                self._heard_of_end(study, has_failed=True)

    def extend(self, held: Collection[Held], *, worker: str, lease_seconds: float) -> list[Held]:
        """Extend leases; which of them are still the worker's. The others must be stopped."""
        claims = {claim.trial_id: each for each, claim in self._known_claims(held)}
        asked = [Claim(trial_id=trial_id, number=each.trial, attempt=each.attempt) for trial_id, each in claims.items()]
        ours = studies.extend_leases(self._store, asked, worker=worker, lease_seconds=lease_seconds)
        for study_id in {claims[trial_id].study_id for trial_id in ours}:
            self._study(study_id).work_goes_on()
        return [claims[trial_id] for trial_id in ours]

    # How it is done -------------------------------------------------------------------------------------------------

    def _study(self, study_id: int) -> AskedStudy:
        """The study of that id, as its file is now. Raises StudyNotFoundError, SpecError."""
        looked_at, known = self._studies.get(study_id, (-math.inf, None))
        now = time.monotonic()
        if known is not None and now - looked_at < KNOWN_SECONDS:
            return known
        with self._lock:
            making = self._making.setdefault(study_id, threading.Lock())
        with making:  # it takes its time: only who asks for the same study waits for it
            try:
                summary = history.study_of_id(self._store, study_id)
            except StudyNotFoundError:
                self._forget(study_id)
                raise
            _, known = self._studies.get(study_id, (0.0, None))
            if known is None or known.content != summary.spec:
                known = AskedStudy(self._storage, summary)
            self._studies[study_id] = (now, known)
            return known

    def _forget_silent(self) -> None:
        now = time.monotonic()
        for study_id, (looked_at, study) in list(self._studies.items()):
            if now - looked_at > FORGOTTEN_SECONDS:
                with suppress(KeyError):  # it was deleted
                    study.rests()
                self._forget(study_id)
        if now >= self._next_roll_call:
            self._next_roll_call = now + ROLL_CALL_SECONDS
            machines.forget_silent(self._store)

    def _forget(self, study_id: int) -> None:
        with self._lock:
            for known in (self._studies, self._making, self._aside):
                known.pop(study_id, None)

    def _is_given(self, study_id: int, request: str | None) -> bool:
        """Whether a trial of the study was given to this request already."""
        return request is not None and studies.study_of_request(self._store, [study_id], request) is not None

    def _claim(
        self, study: AskedStudy, worker: str, lease_seconds: float, request: str | None, gate: Gate
    ) -> Claim | None:
        claim = studies.claim_trial(
            self._store,
            study.study_id,
            worker=worker,
            lease_seconds=lease_seconds,
            max_trials=study.spec.budget.trials,
            holding=(),  # whoever asks may have been started anew under his name: what he holds, he keeps by its lease
            request=request,
            may_start=gate.within(self._store),
        )
        if claim is not None:
            self._remember(study.study_id, claim)
        return claim

    def _handed_out(self, begun: Begun, *, hardware: str | None, code_version: str | None) -> Assignment:
        claim, study = begun.claim, begun.study
        params = dict(begun.known.params)
        if begun.proposal is not None:
            params = self._with_proposal(begun, begun.proposal)
        elif not study.is_complete(params):
            params = study.suggest(claim.trial_id)
        seed = study.spec.seeds.training
        studies.start_trial(
            self._store,
            claim,
            params=params,
            seed=seed,
            hardware=hardware,
            code_version=code_version,
            data_fingerprint=study.data_fingerprint,
        )
        return Assignment(
            study_id=study.study_id,
            study=study.name,
            trial=claim.number,
            attempt=claim.attempt,
            params=params,
            seed=seed,
            lease_seconds=begun.lease_seconds,
            halve_batch=bool(begun.known.system_attrs.get(HALVED_BATCH)),
            content=study.content,
            created_at=study.created_at.timestamp(),
        )

    def _with_proposal(self, begun: Begun, proposal: Future[Proposed]) -> dict[str, Any]:
        claim, study = begun.claim, begun.study
        try:
            proposed = proposal.result(PROPOSAL_SECONDS)
        except TimeoutError as error:
            self.give_up(begun, "nothing was proposed in time")
            raise ServiceUnavailableError("no proposal was made in time; ask again") from error
        except ServiceUnavailableError as error:
            self._aside[study.study_id] = time.monotonic() + ASIDE_SECONDS
            logger.warning("study %s: %s", study.name, error)
            studies.release_trial(self._store, claim, reason="nothing could be proposed")
            raise
        try:
            is_placed = self._storage.configure_attempt(
                claim.trial_id,
                claim.attempt,
                params=proposed.params,
                distributions=study.space.distributions,
                system_attrs={} if proposed.receipt is None else {RECEIPT: proposed.receipt},
            )
        finally:
            self._proposer.placed(study.study_id, proposed)
        if not is_placed:
            raise StaleAttemptError(f"Attempt {claim.attempt} at trial {claim.number} ended before it began.")
        return dict(proposed.params)

    def _last_report(self, study: AskedStudy, claim: Claim) -> list[float]:
        """What an attempt reported last, where that is known and a number: reports are those of the latest attempt."""
        trial = trial_numbered(self._store, study.study_id, claim.number)
        if trial.attempt != claim.attempt or not trial.intermediate_values or len(study.spec.task.metrics) > 1:
            return []
        last = trial.intermediate_values[max(trial.intermediate_values)]
        return [last] if math.isfinite(last) else []

    def _heard_of_end(self, study: AskedStudy, *, has_failed: bool, study_error: str | None = None) -> None:
        """A trial has come to its end, or its worker has."""
        self._proposer.hear(study.study_id)
        if has_failed:
            study.look_at_failures()
        launch = launches.find_launch(self._store, study.study_id)
        if launch is None or launch.place != "workers":
            return
        if study_error is not None:
            launches.finish(self._store, study.study_id, state="failed", message=study_error, worker=None)
        else:
            self._settle(study, launch)

    def _end_where_spent(self, study: AskedStudy, launch: Launch | None) -> None:
        """Raises StudyOverError where the trials of the budget are all finished."""
        if studies.count_running(self._store, study.study_id) == 0:
            self._end(study, launch, f"its {study.spec.budget.trials} trials are finished")

    def _settle(self, study: AskedStudy, launch: Launch) -> None:
        """Note that a study of workers is over, once its last trial has ended."""
        if launch.state != "running" or studies.count_running(self._store, study.study_id):
            return
        over = study.why_over()
        if over is None and study.spec.budget.trials is not None:
            counts = history.study_of_id(self._store, study.study_id).counts
            finished = sum(count for state, count in counts.items() if state.is_finished())
            if finished >= study.spec.budget.trials:
                over = f"its {study.spec.budget.trials} trials are finished"
        if over is not None:
            self._note_end(study, over)

    def _end(self, study: AskedStudy, launch: Launch | None, reason: str) -> None:
        """Raises StudyOverError."""
        self._proposer.rest(study.study_id)
        if (
            launch is not None
            and launch.place == "workers"
            and launch.state == "running"
            and not studies.count_running(self._store, study.study_id)
        ):
            self._note_end(study, reason)
        raise StudyOverError(f"study {study.name!r} hands out no more trials: {reason}")

    def _note_end(self, study: AskedStudy, reason: str) -> None:
        state: Literal["done", "failed"] = "failed" if study.has_failed else "done"
        launches.finish(self._store, study.study_id, state=state, message=reason, worker=None)
        if state == "failed":
            study.forgive_failures()  # to whoever mends it, and lets it go on

    def _claim_of(self, held: Held, owner: str | None = None) -> Claim:
        """Raises StudyNotFoundError, TrialNotFoundError; StaleAttemptError where it is another owner's attempt."""
        claim = Claim(trial_id=self._id_of(held), number=held.trial, attempt=held.attempt)
        if self._is_anothers(claim, owner):
            raise StaleAttemptError(f"Trial {claim.number} is with a worker of somebody else.")
        return claim

    def _is_anothers(self, claim: Claim, owner: str | None) -> bool:
        """Whether a worker of another owner has this attempt."""
        holder = None if owner is None else studies.holder_of(self._store, claim)
        return holder is not None and (not holder.startswith(f"{owner}/") or OWN_WORKER.fullmatch(holder) is not None)

    def _known_claims(self, held: Iterable[Held]) -> list[tuple[Held, Claim]]:
        """Those whose trials are there."""
        found = []
        for each in held:
            try:
                found.append((each, self._claim_of(each)))
            except TrialNotFoundError:
                continue
        return found

    def _id_of(self, held: Held) -> int:
        known = self._ids.get((held.study_id, held.trial))
        if known is None:
            known = self._storage.get_trial_id_from_study_id_trial_number(held.study_id, held.trial)
            self._remember(held.study_id, Claim(trial_id=known, number=held.trial, attempt=held.attempt))
        return known

    def _remember(self, study_id: int, claim: Claim) -> None:
        with self._lock:
            self._ids[study_id, claim.number] = claim.trial_id
            if len(self._ids) > IDS_KEPT:
                self._ids.pop(next(iter(self._ids)))


def _ending(
    study: AskedStudy, state: Told, values: Sequence[float] | None, error: str | None
) -> tuple[TrialState, list[float], str | None]:
    """The state, the values and the error that a trial ends with. Raises SettingsError."""
    metrics = study.spec.task.metrics
    if state == "fail":
        return TrialState.FAIL, [], error or "it failed; no reason was told"
    if values is None or len(values) != len(metrics):
        told = 0 if values is None else len(values)
        wanted = f"a value of {metrics[0]}" if len(metrics) == 1 else f"values of {', '.join(metrics)}, in this order"
        raise SettingsError(f"value: study {study.name!r} wants {wanted}, and {told} were told")
    for name, value in zip(metrics, values, strict=True):
        if not math.isfinite(value):
            return TrialState.FAIL, [], f"nan: {name} is {value}, which is no finite number"
    return TrialState.PRUNED if state == "pruned" else TrialState.COMPLETE, list(values), error


def _refuse_where_not_wanted(study: AskedStudy, launch: Launch | None) -> None:
    """Raises StudyPausedError, StudyOverError."""
    if launch is None:
        return
    if launch.state == "paused" or (launch.wanted == "pause" and launch.state in ACTIVE):
        raise StudyPausedError(f"study {study.name!r} is paused; it hands out trials again when somebody resumes it")
    if launch.state in ("stopped", "done", "failed") or launch.wanted == "stop":
        reason = {"done": "it is done", "failed": "it has failed"}.get(launch.state, "it was stopped")
        said = f" ({launch.message})" if launch.message and launch.state in ("done", "failed") else ""
        raise StudyOverError(f"study {study.name!r} hands out no more trials: {reason}{said}")
