"""What past studies teach, learned once and kept in the store for everyone who asks the same.

What is kept are kernels, beliefs and points; the runs themselves are read anew. It is good for exactly the studies that
it was learned from. When one more has finished, the kernels of the others are taken over, and the rest, which depends
on all of them, is learned again: the same as if all had been, for each part of it is a function of the runs alone.
"""

from __future__ import annotations

import io
import logging
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

from hpo.arrays import Array
from hpo.priors.beliefs import Shares
from hpo.priors.costs import PastCosts, TaskCosts, telling_tasks
from hpo.priors.history import History
from hpo.priors.portfolio import PastTask, Pick
from hpo.spaces.encoding import Encoding
from hpo.surrogates.gaussian_process import Kernel
from hpo.tuning.evidence import PastStudy
from hpo.tuning.past import Past, learn, often
from storage.learned import Learned, Losses

if TYPE_CHECKING:
    from storage.optuna_storage import HistoryStorage

PRINT_BYTES = 32
VERSION = 1  # of what is learned and of how it is kept: other versions are not read
UNREADABLE = (
    BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    NotImplementedError,
)

logger = logging.getLogger(__name__)


def learned_past(
    storage: HistoryStorage,
    studies: Sequence[PastStudy],
    encoding: Encoding,
    candidates: Array | None,
    *,
    aim: str,
    since: Losses,
) -> Past:
    """As `hpo.tuning.past.learn`, from what is kept where that is possible; keeps what it had to learn.

    aim: what is to be improved; of each aim in each space the latest is kept.
    since: what had gone away from the history when the studies were read.
    What is kept and cannot be read, as where a disk has damaged it, is learned anew, and kept again.
    """
    subject = _digest([repr((VERSION, aim, encoding.space)).encode(), _bytes_of(candidates)])
    prints = [_fingerprint(study.task.X, study.task.y) for study in studies]
    beside = [_fingerprint(study.landmarks, _beside(study.task)) for study in studies]
    costs = [_fingerprint(each.X, each.logs) for each in _costs(studies)]
    watermark = _digest([*prints, *beside, *costs])
    kept, known = storage.recall(subject), dict[bytes, Kernel]()
    try:
        if kept is not None and kept.watermark == watermark:
            return _unpacked(kept.payload, studies, prints, encoding, candidates)
        if kept is not None:
            _, known = _kernels(_arrays(kept.payload), encoding)
    except UNREADABLE as error:
        logger.warning("what was learned from past studies (%s) is damaged, and learned anew: %s", subject[:12], error)
    past = learn(studies, encoding, candidates, known=[known.get(each) for each in prints])
    storage.keep(subject, Learned(watermark=watermark, payload=_packed(past, prints)), since=since)
    return past


def _costs(studies: Sequence[PastStudy]) -> list[TaskCosts]:
    return [study.costs for study in studies if study.costs is not None]


def _fingerprint(*arrays: Array) -> bytes:
    return sha256(b"".join(map(_bytes_of, arrays))).digest()


def _beside(task: PastTask) -> Array:
    """What a task is beside its runs."""
    return np.array([task.weight, task.scale.centre, task.scale.spread, task.scale.mean, task.scale.deviation])


def _bytes_of(array: Array | None) -> bytes:
    return b"" if array is None else repr(array.shape).encode() + np.ascontiguousarray(array).tobytes()


def _digest(parts: Sequence[bytes]) -> str:
    return sha256(b"".join(parts)).hexdigest()


# As it is kept: arrays by name


def _packed(past: Past, prints: Sequence[bytes]) -> bytes:
    own = {each: task.kernel for each, task in zip(prints, past.history.tasks, strict=True) if task.kernel is not None}
    kernels = [past.history.kernel, *own.values()]
    content = {
        "prints": np.frombuffer(b"".join(own), dtype=np.uint8),
        "lengthscales": np.array([kernel.lengthscales for kernel in kernels]),
        "noises": np.array([kernel.noise for kernel in kernels]),
        "points": np.array([pick.point for pick in past.picks]),
        "credits": np.array([pick.credit for pick in past.picks]),
        "related": past.shares.related,
        "unrelated": np.array(past.shares.unrelated),
        "wide": past.wide,
        "close": past.close,
    }
    if past.costs is not None:
        kernel = past.costs.kernel
        content["costs"] = np.array([past.costs.kinship, kernel.noise, *kernel.lengthscales])
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **content)
    return file.getvalue()


def _unpacked(
    payload: bytes, studies: Sequence[PastStudy], prints: Sequence[bytes], encoding: Encoding, candidates: Array | None
) -> Past:
    content = _arrays(payload)
    shared, own = _kernels(content, encoding)
    tasks = [replace(study.task, kernel=own.get(each)) for study, each in zip(studies, prints, strict=True)]
    wide, close = content["wide"], content["close"]
    return Past(
        studies=studies,
        history=History(tasks=tasks, kernel=shared, often=often(wide, close, candidates)),
        shares=Shares(related=content["related"], unrelated=float(content["unrelated"])),
        picks=[
            Pick(point=point, credit=credit)
            for point, credit in zip(content["points"], content["credits"], strict=True)
        ],
        wide=wide,
        close=close,
        costs=_past_costs(content.get("costs"), studies, encoding),
    )


def _past_costs(kept: Array | None, studies: Sequence[PastStudy], encoding: Encoding) -> PastCosts | None:
    if kept is None:
        return None
    kernel = Kernel(lengthscales=kept[2:], noise=float(kept[1]), categorical=encoding.categorical)
    return PastCosts(tasks=telling_tasks(_costs(studies)), kernel=kernel, kinship=float(kept[0]))


def _arrays(payload: bytes) -> dict[str, Array]:
    with np.load(io.BytesIO(payload), allow_pickle=False) as content:
        return dict(content)


def _kernels(content: Mapping[str, Array], encoding: Encoding) -> tuple[Kernel, dict[bytes, Kernel]]:
    """The kernel that all tasks share, and those that some tasks have of their own, by fingerprint."""
    shared, *own = [
        Kernel(lengthscales=lengthscales, noise=float(noise), categorical=encoding.categorical)
        for lengthscales, noise in zip(content["lengthscales"], content["noises"], strict=True)
    ]
    prints = [row.tobytes() for row in content["prints"].reshape(len(own), PRINT_BYTES)]
    return shared, dict(zip(prints, own, strict=True))
