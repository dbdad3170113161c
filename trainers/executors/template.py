"""The process from which trials are forked: it has imported everything once.

It never runs a torch operation of its own, so that its children may use threads and GPUs, and it has no threads.
It lives as long as the executor's end of its control socket is open, and leaves no process behind.
"""

from __future__ import annotations

import gc
import os
import select
import selectors
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
import torch.profiler  # Lightning imports it when a fit begins

from trainers.compression.settings import ROLE as COMPRESSED
from trainers.compression.settings import check_compression
from trainers.devices.choice import check_room, gpus_for
from trainers.errors import ERRORS_BY_NAME, ModelImportError, TrainerError
from trainers.executors.worker import run_trial
from trainers.fitting.fit import completion
from trainers.fitting.folds import check_folds
from trainers.job import FitJob, TrainerConfig
from trainers.processes.channel import Channel, Message, open_inherited_channel
from trainers.processes.lifetimes import (
    TRIAL_VARIABLE,
    adopt_orphans,
    describe_exit,
    die_with_parent,
    kill_group,
    outlive_parent,
    trial_of,
    wait_until,
)
from trainers.programs.functions import FunctionProgram
from trainers.programs.loading import Program, load_program, model_class
from trainers.programs.memory import check_halving
from trainers.ranks.strategies import (
    ROLE,
    check_model,
    check_option_names,
    check_whole_checkpoints,
    settings_to_try,
    without_strategy,
)

PARENT_CHECK_SECONDS = 1.0  # should the socket's end be kept open by a stranger
GONE_SECONDS = 5.0  # for a killed group to be gone; more only in uninterruptible sleep


def main(control_file: int, parent: int) -> None:
    """Import, answer, and serve until the executor is gone."""
    die_with_parent(parent=parent)  # while user code is imported, which may take for ever
    adopt_orphans()
    control = open_inherited_channel(control_file)
    order = control.receive()
    if order is None:
        return
    config = TrainerConfig.from_json(order["config"])
    sys.path[:0] = config.python_path
    try:
        check_room(config, jobs=order["jobs"], gpus=gpus_for(config))
        program = _import(config, names=order["names"])
    except TrainerError as error:
        control.send({"type": "error", "error": type(error).__name__, "message": str(error)})
        return
    outlive_parent()  # the thread that called start() may end before the executor does
    _Template(control, config, program, parent=parent).serve()


def _import(config: TrainerConfig, *, names: Collection[str]) -> Program:
    torch.set_num_threads(1)  # user modules may compute on import; OpenMP's threads do not survive a fork
    program = load_program(config)
    _check(program, config, names=names)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch has not typed it yet
        raise ModelImportError(
            f"importing {config.subject}, or what belongs to it, starts CUDA, which no forked trial could use then: "
            "move what touches the GPU from the module into a constructor or a hook"
        )
    return program


def _check(program: Program, config: TrainerConfig, *, names: Collection[str]) -> None:
    """Whether the program takes the study's settings and names; tried in a child: it may start threads or CUDA."""
    reading, writing = os.pipe()
    template = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            die_with_parent(parent=template)
            os.write(writing, refusal(program, config, names=names).encode()[: select.PIPE_BUF])
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8", errors="replace") as answer:  # noqa: PTH123 - a descriptor
        kind, _, message = answer.read().partition(" ")
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if kind:
        raise ERRORS_BY_NAME[kind](message)
    if code:
        raise TrainerError(f"trying the settings of {config.subject} {describe_exit(code)}")


def refusal(program: Program, config: TrainerConfig, *, names: Collection[str]) -> str:
    """The kind of error and what is said against the settings; empty where they are taken."""
    try:
        is_compressed = config.compress is not None or any(name.startswith(COMPRESSED) for name in names)
        names = check_compression(config, names)
        if isinstance(program, FunctionProgram):
            program.check(names)
        else:
            if config.on_out_of_memory == "halve_batch":
                check_halving(program, names)
            names = check_folds(program, config, names)
            check_option_names(config, [name.removeprefix(ROLE) for name in names if name.startswith(ROLE)])
            for settings in settings_to_try(config):
                check_whole_checkpoints(config, settings, is_compressed=is_compressed)
                check_model(config, settings, model_class(program))
                complete = completion(config, [], strategy=settings, directory=tempfile.gettempdir(), slot=0)
                program.check(without_strategy(names), complete)
    except TrainerError as error:
        kind = type(error).__name__
        return f"{kind if kind in ERRORS_BY_NAME else TrainerError.__name__} {error}"
    except BaseException as error:  # the user's code may raise anything
        return f"{TrainerError.__name__} {type(error).__name__}: {error}"
    return ""


@dataclass(frozen=True, kw_only=True)
class _Trial:
    key: int
    folder: str  # for temporary files


class _Template:
    def __init__(self, control: Channel, config: TrainerConfig, program: Program, *, parent: int) -> None:
        self._control = control
        self._config = config
        self._program = program
        self._folder = tempfile.mkdtemp(prefix="hindsight-")  # for temporary files
        self._parent = parent
        self._trials: dict[int, _Trial] = {}  # by process id, which is its group's too
        self._selector = selectors.DefaultSelector()
        self._wake_up, self._woken = socket.socketpair()

    def serve(self) -> None:
        self._listen_to_signals()
        self._selector.register(self._control, selectors.EVENT_READ)
        self._selector.register(self._wake_up, selectors.EVENT_READ)
        gc.collect()
        gc.freeze()  # children share what is there now
        self._control.send({"type": "ready", "folder": self._folder})
        try:
            while not self._control.closed and os.getppid() == self._parent:
                self._selector.select(PARENT_CHECK_SECONDS)
                self._obey()
                self._reap()
        finally:
            self._end()

    def _listen_to_signals(self) -> None:
        self._wake_up.setblocking(False)
        self._woken.setblocking(False)
        signal.set_wakeup_fd(self._woken.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the executor's to answer
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())

    def _obey(self) -> None:
        for message in self._control.receive_available():
            match message["type"]:
                case "launch":
                    self._launch(message, file=self._control.take_file())
                case "kill":
                    for pid, trial in self._trials.items():
                        if trial.key == message["key"]:
                            _kill(pid)

    def _launch(self, message: Message, *, file: int) -> None:
        folder = tempfile.mkdtemp(dir=self._folder)
        sys.stdout.flush()
        sys.stderr.flush()
        template = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become_trial(message, file=file, folder=folder, template=template)
        os.close(file)
        self._trials[pid] = _Trial(key=message["key"], folder=folder)

    def _become_trial(self, message: Message, *, file: int, folder: str, template: int) -> NoReturn:
        try:
            os.setsid()
            die_with_parent(parent=template)
            self._let_go()
            tempfile.tempdir = os.environ["TMPDIR"] = folder
            os.environ[TRIAL_VARIABLE] = str(os.getpid())
            job = FitJob.from_json(message["job"])
            run_trial(open_inherited_channel(file), self._program, self._config, job, slot=message["slot"])
        finally:
            os._exit(1)

    def _let_go(self) -> None:
        """Give up, in the trial, what is the template's."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._selector.close()
        for end in (self._control, self._wake_up, self._woken):
            end.close()

    def _reap(self) -> None:
        """Tell of every trial that has ended, once nothing of it is left."""
        self._forget_signals()
        for pid, code in _ended_children():
            if trial := self._trials.pop(pid, None):
                _end_group(pid)
                self._kill_stray_orphans()
                shutil.rmtree(trial.folder, ignore_errors=True)
                self._control.send({"type": "exited", "key": trial.key, "code": code})
        self._kill_stray_orphans()

    def _forget_signals(self) -> None:
        try:
            while self._wake_up.recv(4096):
                pass
        except BlockingIOError:
            pass

    def _kill_stray_orphans(self) -> None:
        """End what left its trial's process group, and whose trial has ended."""
        for pid in _children():
            origin = trial_of(pid) if pid not in self._trials else None
            if origin is not None and origin not in self._trials:
                os.kill(pid, signal.SIGKILL)

    def _end(self) -> None:
        for pid in self._trials:
            _kill(pid)
        for pid in self._trials:
            _end_group(pid)
        self._trials.clear()
        self._kill_stray_orphans()
        shutil.rmtree(self._folder, ignore_errors=True)  # the executor may be gone


def _kill(trial: int) -> None:
    """Kill a trial that has not been waited for; one just forked may not lead its group yet, and is alone."""
    if not kill_group(trial):
        os.kill(trial, signal.SIGKILL)


def _end_group(group: int) -> None:
    """Kill what is left of a process group and wait until it is gone."""

    def is_gone() -> bool:
        try:
            while os.waitpid(-group, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        return not kill_group(group)

    wait_until(is_gone, seconds=GONE_SECONDS)


def _ended_children() -> list[tuple[int, int]]:
    """Process id and exit code of every child that has ended since the last call."""
    ended = []
    try:
        while (child := os.waitpid(-1, os.WNOHANG))[0]:
            ended.append((child[0], os.waitstatus_to_exitcode(child[1])))
    except ChildProcessError:
        pass
    return ended


def _children() -> list[int]:
    """Process ids of all children, the adopted ones among them (Linux; elsewhere none is adopted)."""
    try:
        return [int(pid) for pid in Path("/proc/thread-self/children").read_text().split()]
    except OSError:
        return []
