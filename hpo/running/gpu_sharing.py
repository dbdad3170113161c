"""How many trials fit on one GPU side by side, as past trials' memory shows?"""

from __future__ import annotations

from collections.abc import Iterable

from hpo.studies.spec import StudySpec
from storage import history
from storage.database import Store
from storage.families import family_of
from trainers.devices.gpus import visible_gpus

MARGIN = 0.2  # of the memory that stays free: allocators fragment, and a new configuration may be larger (heuristic)
CONTEXT_BYTES = 600 * 2**20  # that each process takes besides: the CUDA context and libraries (heuristic)
MOST = 8  # trials on one GPU: beyond, they only wait for each other (heuristic)
FEWEST_TRIALS = 3  # before which past memory says nothing (heuristic)


def trials_that_fit(peaks_bytes: Iterable[int], gpu_bytes: int | None) -> int:
    """As many as the largest of the past peaks leaves room for; 1 where little is known.

    peaks_bytes: what each past trial of the family allocated at its peak. gpu_bytes: memory of the smallest GPU.
    """
    peaks = list(peaks_bytes)
    if gpu_bytes is None or len(peaks) < FEWEST_TRIALS:
        return 1
    fit = int(gpu_bytes * (1 - MARGIN) / (max(peaks) + CONTEXT_BYTES))
    return max(1, min(fit, MOST))


def trials_per_device(spec: StudySpec, store: Store) -> int:
    """What a study asks for; `auto` by the memory that past trials of its family took, and that of the GPUs here."""
    asked = spec.training.trials_per_device
    if asked != "auto":
        return asked
    known = [gpu.memory_bytes for gpu in visible_gpus() if gpu.memory_bytes is not None]
    family = family_of(spec.search_space().to_json(), spec.task.metric, spec.task.directions)
    return trials_that_fit(history.peak_memory(store, family), min(known, default=None))
