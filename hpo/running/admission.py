"""May this study be run on this history: is it new, the same as before, or against what is known?"""

from __future__ import annotations

from typing import Any

from optuna.trial import TrialState

from hpo.errors import DirectionError, SpecError
from hpo.studies.spec import StudySpec
from storage import history, privacy
from storage.database import Store
from storage.errors import StudyExistsError, StudyNotFoundError
from storage.families import family_of

OPPOSITE = {"minimize": "maximize", "maximize": "minimize"}
FREE_TO_CHANGE = (
    *("threads", "devices", "accelerator", "trials_per_device", "resources"),
    *("stall_minutes", "on_out_of_memory", "keep_folds"),
)  # of the trainer: they change the speed, what becomes of failures and what is kept, not the result


def admit(store: Store, spec: StudySpec, *, resume: bool) -> history.StudySummary | None:
    """The study to go on with; None where a new one is to be made, which may replace one that never had a result.

    Raises StudyExistsError, SpecError, DirectionError.
    """
    try:
        existing = history.get_study(store, spec.study)
    except StudyNotFoundError:
        existing = None
    if existing is None or _has_only_failed(existing):
        _check_direction(store, spec)
        return None
    if not resume:
        raise StudyExistsError(
            f"study {spec.study!r} is there already, with {existing.trials} trials; go on with it by --resume, "
            "or give this one another name by --study (or the key `study` of the file)"
        )
    _check_unchanged(spec, existing.spec)
    return existing


def _has_only_failed(study: history.StudySummary) -> bool:
    """Nothing would be lost by starting it again, as after a mistyped metric."""
    return 0 < study.trials == study.counts[TrialState.FAIL]


def _check_unchanged(spec: StudySpec, before: Any) -> None:
    if before is None:
        raise SpecError(
            f"study {spec.study!r} was made by another program and cannot be resumed from a study file; "
            "give this one another name by --study: it will learn from that one"
        )
    as_stored = privacy.current().study_file(spec.model_dump(mode="json", exclude_defaults=True))
    then, now = (_decisive(content) for content in (before, as_stored))
    changed = [key for key in now if then.get(key) != now[key]]
    if changed:
        raise SpecError(
            f"study {spec.study!r} was started with another {' and '.join(changed)}; restore the file to resume it, "
            "or start a new study by --study NAME: it will learn from this one"
        )


def _decisive(content: Any) -> dict[str, Any]:
    """What must stay the same for the trials of a study to be comparable."""
    trainer = {key: value for key, value in content.get("trainer", {}).items() if key not in FREE_TO_CHANGE}
    return {"task": content["task"], "space": content["space"], "trainer": trainer}


def _check_direction(store: Store, spec: StudySpec) -> None:
    task, opposite = spec.task, OPPOSITE[spec.task.direction]
    contrary = [opposite, *task.directions[1:]]
    found = history.contrary_study(
        store,
        task=task.name,
        metric=task.metric,
        directions=contrary,
        family=family_of(spec.search_space().to_json(), task.metric, contrary),
        except_for=spec.study,  # it has only failed, and is replaced
    )
    if found is not None:
        same_task = found.task == task.name
        raise DirectionError(
            f"task.direction: {task.metric} is to be {task.direction}d here, and study {found.name!r} of the "
            f"same {'task' if same_task else 'family'} {opposite}s it; correct the direction, or name the "
            "metric differently"
        )
