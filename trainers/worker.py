"""What runs in the process of one trial."""

from __future__ import annotations

import os
import re
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from trainers.channel import Channel, Message
from trainers.checkpoints import FROM_THE_BEGINNING, Start, find_start, identity_of
from trainers.errors import TrainerError
from trainers.fit import fit
from trainers.functions import FunctionProgram
from trainers.job import OUTPUT_LOG, FailureKind, FitJob, TrainerConfig
from trainers.judge import FitError
from trainers.loading import Program
from trainers.ranks import run_ranks
from trainers.strategies import count_ranks, server_of, strategy_settings
from trainers.tracebacks import format_traceback
from trainers.watchdog import Pulse

OUT_OF_MEMORY = re.compile(r"\b(OutOfMemoryError|MemoryError)\b|DefaultCPUAllocator: can't allocate memory")


def run_trial(channel: Channel, program: Program, config: TrainerConfig, job: FitJob, *, slot: int) -> NoReturn:
    """Train, tell the executor how it went, and end the process."""
    exit_code = 1
    try:
        channel.send({"type": "started", "pid": os.getpid()})
        channel.send(_train(channel, program, config, job, slot=slot))
        exit_code = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)  # the clean-up of the interpreter belongs to the template it was forked from


def _train(channel: Channel, program: Program, config: TrainerConfig, job: FitJob, *, slot: int) -> Message:
    """The trial's last message."""
    try:
        redirect_output(Path(job.directory))
        count, server = count_ranks(config), server_of(config, strategy_settings(config, job.params))
        start = find_start(
            Path(job.directory), identity=identity_of(config, job), earlier=[Path(folder) for folder in job.earlier]
        )

        def run() -> Message:
            return fit_rank(channel, program, config, job, slot=slot, start=start)

        return run() if count == 1 else run_ranks(run, count=count, server=server)
    except BaseException as error:
        return failure(error)


def fit_rank(
    channel: Channel,
    program: Program,
    config: TrainerConfig,
    job: FitJob,
    *,
    slot: int,
    start: Start = FROM_THE_BEGINNING,
) -> Message:
    """What one rank does, and how it went. Only rank 0 reports."""

    def report(*, epoch: int, value: float | None, metrics: dict[str, float]) -> bool:
        channel.send({"type": "reported", "epoch": epoch, "value": value, "metrics": metrics})
        answer = channel.receive()
        if answer is None:
            raise ConnectionError("the study's process is gone")
        return bool(answer["prune"])

    pulse = Pulse(lambda: channel.send_if_room({"type": "alive"}))
    try:
        if isinstance(program, FunctionProgram):
            outcome = program.run(job, slot=slot, report=report)
        else:
            outcome = fit(program, config, job, slot=slot, report=report, pulse=pulse, start=start)
    except BaseException as error:
        return failure(error)
    return {"type": "finished", "outcome": outcome.to_json()}


def redirect_output(directory: Path) -> None:
    """Send what the trial prints, by whatever means, to its log."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / OUTPUT_LOG).open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


def classify(error: BaseException) -> tuple[FailureKind, str]:
    """The kind of a failure and one line that says what it was."""
    if isinstance(error, SystemExit):
        return "exception", f"the code called sys.exit({error.code!r})"
    text = "".join(traceback.format_exception_only(error)).strip()
    return ("out_of_memory" if OUT_OF_MEMORY.search(text) else "exception"), text.splitlines()[0]


def failure(error: BaseException) -> Message:
    """The last message of what went wrong. Whatever the user's code raises becomes one, `sys.exit` too."""
    if isinstance(error, FitError):
        kind, reason = error.kind, error.reason
    elif isinstance(error, TrainerError):
        kind, reason = "exception", str(error)
    else:
        sys.stderr.write(format_traceback(error))
        kind, reason = classify(error)
    return {"type": "failed", "kind": kind, "reason": reason}
