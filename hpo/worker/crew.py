"""What it takes to train the trials of one study on this machine: its code, read once, and a folder for their files.

To import code takes seconds, and some code takes minutes: trials of other studies do not wait for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hpo.running.attempts import fit_job, folder_of, study_folder
from hpo.running.executors import HERE, make_executor
from hpo.service.allowed_code import check_code
from hpo.studies.study_file import parse_spec
from hpo.studies.teachers import compress_section
from hpo.studies.trainer_settings import trainer_config
from trainers.executors import Executor

DECISIVE = ("task", "trainer", "space")


class Crew:
    """The executor of one study, as `hpo tune` would have it. Its trials are keyed by their numbers."""

    def __init__(
        self,
        study: Mapping[str, Any],
        *,
        server: str,
        projects: Path,
        packages: Collection[str],
        runs: Path,
        jobs: int,
        notice: Callable[[str], None],
    ) -> None:
        """study: as the service tells of it. Raises SpecError for a study that may not, or cannot, be trained here."""
        self.study_id, self.name, self._content = int(study["id"]), str(study["name"]), study["spec"]
        self.spec = parse_spec(study["spec"], source=f"study {self.name!r}")
        check_code(self.spec, projects=projects, packages=packages)
        created_at = datetime.fromtimestamp(study["created_at"], UTC)
        self._folder = study_folder(runs, self.name, store_url=server, created_at=created_at)
        sharing = self.spec.training.trials_per_device
        devices = self.spec.training.devices or 1
        config = trainer_config(
            self.spec,
            folder=projects,
            threads=HERE.threads(jobs=jobs, devices=devices),
            trials_per_device=1 if sharing == "auto" else sharing,  # what past trials took is not known here
            compress=compress_section(self.spec, None, folder=projects),
        )
        self.executor: Executor = make_executor(HERE, config, jobs=jobs, resources={}, notice=notice)
        self._imported: Future[None] = Future()
        self._lock, self._is_closed = threading.Lock(), False

    def __enter__(self) -> Self:
        """Begin to import the user's code."""
        threading.Thread(target=self._import, name=f"importing for study {self.study_id}", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self._is_closed = True
            if self._imported.done():  # else it is closed as soon as it can be
                self.executor.close()

    @property
    def has_imported(self) -> bool:
        """Whether the user's code has been imported, or cannot be. Before that, leave the executor alone."""
        return self._imported.done()

    def trains_as(self, content: Mapping[str, Any]) -> bool:
        """Whether a study file is the same in all that is trained; a budget may have grown."""
        return all(self._content.get(key) == content.get(key) for key in DECISIVE)

    def folder(self, given: Mapping[str, Any]) -> Path:
        """Of the attempt at a trial."""
        return folder_of(self._folder, number=given["trial"], attempt=given["attempt"])

    def launch(self, given: Mapping[str, Any]) -> None:
        """Begin a trial, once the code has been imported. Raises TrainerError, also of the import."""
        self._imported.result()
        job = fit_job(
            self.spec,
            self.folder(given),
            params=given["params"],
            seed=given["seed"],
            halve_batch=bool(given["halve_batch"]),
        )
        self.executor.launch(given["trial"], job)

    def _import(self) -> None:
        error: BaseException | None = None
        try:
            self.executor.start(self.spec.space)
        except BaseException as raised:
            error = raised
        with self._lock:
            if self._is_closed:
                self.executor.close()
            if error is None:
                self._imported.set_result(None)
            else:
                self._imported.set_exception(error)
