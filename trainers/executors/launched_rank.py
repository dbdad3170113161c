"""What runs in each process that a launcher (torchrun, srun, a script) starts for a trial.

Called as `python -m trainers.executors.launched_rank HOST:PORT`, with the trial's token in the environment. It connects
to the study's process, is told what to do, and ends when that process, or the trial, does: on whatever machine it runs.
"""

from __future__ import annotations

import os
import socket
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from trainers.errors import TrainerError
from trainers.fitting.checkpoints import Start, announce, await_announced
from trainers.job import FitJob, TrainerConfig
from trainers.processes.channel import Channel, Message
from trainers.processes.launch_environment import LaunchedPlace, place_in_launch
from trainers.processes.remote_channel import TOKEN_VARIABLE, call, die_with_study

ALIVE: Message = {"type": "alive"}


def main(address: str) -> NoReturn:
    """Do one trial's part, or only see whether the study can be trained here."""
    exit_code = 1
    try:
        place = place_in_launch(os.environ)
        channel = _introduce(address, place)
        die_with_study(channel)
        if order := channel.receive():
            words = _obey(channel, order, place)
            sys.stdout.flush()
            sys.stderr.flush()
            channel.send(words)
            channel.receive()  # that it was heard: once this rank has left, others fail of its absence
            exit_code = 0 if words["type"] in ("ready", "finished") else 1
    except TrainerError as error:
        sys.stderr.write(f"hpo: {error}\n")
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)  # threads of the user's code must not keep the launcher waiting


def _introduce(address: str, place: LaunchedPlace) -> Channel:
    token = os.environ.get(TOKEN_VARIABLE)
    if token is None:
        raise TrainerError(f"the launcher does not pass on {TOKEN_VARIABLE} to the processes that it starts")
    try:
        return call(
            address,
            {"token": token, "rank": place.rank, "world_size": place.world_size, "host": socket.gethostname()},
        )
    except OSError as error:
        raise TrainerError(
            f"the study's process cannot be reached at {address} from {socket.gethostname()} ({error}); "
            "name an address of its machine by `hpo tune --launch-host`"
        ) from error


def _obey(channel: Channel, order: Message, place: LaunchedPlace) -> Message:
    config = TrainerConfig.from_json(order["config"])
    sys.path[:0] = config.python_path
    if order["type"] == "check":
        return _check(config, names=order["names"]) if place.rank == 0 else {"type": "ready"}
    # here, not above: other ranks than the first answer a check without these
    from trainers.devices.choice import gpus_for, hold_devices  # noqa: PLC0415
    from trainers.executors.worker import failure, fit_rank  # noqa: PLC0415
    from trainers.programs.loading import load_program  # noqa: PLC0415

    try:
        program, job = load_program(config), FitJob.from_json(order["job"])
        if config.devices == 1:  # of several, every rank would have to hold the same
            hold_devices(config, gpus=gpus_for(config), slot=order["slot"], wait=lambda: channel.send_if_room(ALIVE))
        starts = _starts(config, job, place)
    except BaseException as error:
        return failure(error)
    return fit_rank(channel, program, config, job, slot=order["slot"], starts=starts)


def _starts(config: TrainerConfig, job: FitJob, place: LaunchedPlace) -> list[Start]:
    """From which checkpoints of earlier attempts the trial goes on, the same for all ranks."""
    if not job.earlier:
        return []
    if place.rank > 0:
        return await_announced(Path(job.directory))
    from trainers.fitting.folds import find_starts  # noqa: PLC0415

    starts = find_starts(config, job)
    announce(starts, Path(job.directory))
    return starts


def _check(config: TrainerConfig, *, names: list[str]) -> Message:
    """Whether the study can be trained here."""
    from trainers.executors.template import refusal  # noqa: PLC0415
    from trainers.programs.loading import load_program  # noqa: PLC0415

    try:
        kind, _, message = refusal(load_program(config), config, names=names).partition(" ")
    except TrainerError as error:
        kind, message = type(error).__name__, str(error)
    return {"type": "error", "error": kind, "message": message} if kind else {"type": "ready"}


if __name__ == "__main__":
    main(sys.argv[1])
