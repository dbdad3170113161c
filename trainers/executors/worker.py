"""What runs in the process of one trial."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from trainers.devices.choice import gpus_for, hold_devices
from trainers.errors import TrainerError
from trainers.fitting.checkpoints import Start
from trainers.fitting.folds import find_starts, train
from trainers.job import OUTPUT_LOG, FailureKind, FitJob, TrainerConfig
from trainers.processes.channel import Channel, Message
from trainers.processes.tracebacks import format_traceback
from trainers.processes.watchdog import Pulse
from trainers.programs.functions import FunctionProgram
from trainers.programs.loading import Program
from trainers.programs.memory import is_out_of_memory
from trainers.ranks.forked import run_ranks
from trainers.ranks.strategies import count_ranks, server_of, strategy_settings
from trainers.reports import FitError


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
        hold_devices(config, gpus=gpus_for(config), slot=slot, wait=_pulse(channel))
        count = 1 if isinstance(program, FunctionProgram) else count_ranks(config)  # a function starts its own
        server = server_of(config, strategy_settings(config, job.params))
        starts = find_starts(config, job)
        sys.stderr.writelines(f"{notice}\n" for start in starts for notice in start.notices)

        def run() -> Message:
            return fit_rank(channel, program, config, job, slot=slot, starts=starts)

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
    starts: Sequence[Start] = (),
) -> Message:
    """What one rank does, and how it went. Only rank 0 reports."""

    def report(*, epoch: int, value: float | None, metrics: dict[str, float]) -> bool:
        channel.send({"type": "reported", "epoch": epoch, "value": value, "metrics": metrics})
        answer = channel.receive()
        if answer is None:
            raise ConnectionError("the study's process is gone")
        return bool(answer["prune"])

    pulse = _pulse(channel)
    try:
        if isinstance(program, FunctionProgram):
            outcome = program.run(job, slot=slot, report=report)
        else:
            outcome = train(program, config, job, slot=slot, report=report, pulse=pulse, starts=starts)
    except BaseException as error:
        return failure(error)
    return {"type": "finished", "outcome": outcome.to_json()}


def _pulse(channel: Channel) -> Pulse:
    return Pulse(lambda: channel.send_if_room({"type": "alive"}))


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
    return ("out_of_memory" if is_out_of_memory(error) else "exception"), text.splitlines()[0]


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
