"""`/tasks`: what is tuned, and how much is known of it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from hpo.api.access import Reader, ServiceState
from hpo.api.answers import as_json, says
from hpo.api.problems import ApiError
from storage.task_overview import TaskOverview, list_tasks

router = APIRouter(prefix="/tasks", tags=["tasks"])


@router.get("", responses=says(list[TaskOverview]))
def get_tasks(
    who: Reader,
    service: ServiceState,
    family: Annotated[str | None, Query(max_length=300, description="Only those with a study in this family.")] = None,
    search: Annotated[str | None, Query(max_length=200, description="Part of the name.")] = None,
) -> Response:
    """The tasks by name, with their families, studies and trials."""
    found = list_tasks(service.store, family=family)
    return as_json([task for task in found if search is None or search.lower() in task.name.lower()])


@router.get("/{task_id}", responses=says(TaskOverview))
def get_task(
    who: Reader, service: ServiceState, task_id: Annotated[int, Path(ge=1, le=2**31 - 1, description="Of the task.")]
) -> Response:
    """One task. 404 `task-not-found`."""
    for task in list_tasks(service.store):
        if task.task_id == task_id:
            return as_json(task)
    raise ApiError(404, "task-not-found", f"there is no task {task_id}")
