"""How trials run on this machine: each a process, forked from a warm template."""

from __future__ import annotations

import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from trainers.devices.oom_kills import blame_memory, oom_kills
from trainers.errors import ERRORS_BY_NAME, TrainerError
from trainers.executors import Executor
from trainers.executors.events import ended, reported, tail
from trainers.job import Event, FitJob, TrainerConfig
from trainers.processes.channel import Channel, Message, open_channel_pair
from trainers.processes.launch_environment import without_launcher
from trainers.processes.lifetimes import describe_exit, kill_trial
from trainers.processes.watchdog import Watchdog

START_SECONDS = 600.0  # to import torch and the user's code, from a cold network disk too
GONE_SECONDS = 10.0  # for killed processes to be gone
GONE_POLL_SECONDS = 0.01
STALL_POLL_SECONDS = 0.01
BOOT = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from trainers.executors.template import main
main(int(sys.argv[2]), int(sys.argv[3]))
"""


@dataclass(kw_only=True)
class _Trial:
    key: int
    slot: int  # which of the trials side by side
    directory: Path
    channel: Channel
    group: int | None = None  # of processes, once the trial has started
    awaits_answer: bool = False
    last_words: Message | None = None  # how it went; told once its processes are gone
    oom_kills: int | None = field(default_factory=oom_kills)  # when it was launched


@dataclass(frozen=True, kw_only=True)
class _Template:
    process: subprocess.Popen[bytes]
    control: Channel
    output: IO[bytes]
    folder: str | None = None  # for temporary files, once it is ready


class LocalExecutor(Executor):
    """Up to `jobs` trials at once, each a process group of its own.

    The template is a process too: should it die, its trials fail, and the next launch starts another one. All of
    them end when this process does, however it ends.
    """

    def __init__(self, config: TrainerConfig, *, jobs: int) -> None:
        if jobs < 1:
            raise ValueError(f"jobs = {jobs} is not a positive number")
        self._config = config
        self._jobs = jobs
        self._parameters: tuple[str, ...] = ()
        self._template: _Template | None = None
        self._trials: dict[int, _Trial] = {}
        self._events: list[Event] = []
        self._watchdog = Watchdog(minutes=config.stall_minutes)
        self._selector = selectors.DefaultSelector()

    def start(self, parameters: Collection[str] = ()) -> None:
        """Import the user's code and check that each of the `parameters` has a constructor that takes it."""
        if self._template is None:
            self._parameters = tuple(parameters)
            self._start_template()

    def launch(self, key: int, job: FitJob) -> None:
        """Fork a trial. A template that has died meanwhile is started again, which raises TrainerError if it cannot."""
        self._handle_control()  # has the template died meanwhile?
        if key in self._trials or len(self._trials) == self._jobs:
            raise ValueError(f"cannot launch trial {key}: {sorted(self._trials)} run, {self._jobs} may at once")
        template = self._template or self._start_template()
        slot = min(set(range(self._jobs)) - {trial.slot for trial in self._trials.values()})
        ours, theirs = open_channel_pair()
        template.control.send({"type": "launch", "key": key, "slot": slot, "job": job.to_json()}, file=theirs.fileno())
        theirs.close()
        self._trials[key] = _Trial(key=key, slot=slot, directory=Path(job.directory), channel=ours)
        self._selector.register(ours, selectors.EVENT_READ, key)
        self._watchdog.hear(key)

    def poll(self, timeout: float) -> list[Event]:
        """What has happened, as soon as something has; nothing after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        self._handle_messages(0)
        while not self._events and (left := deadline - time.monotonic()) > 0:
            self._handle_messages(min(left, self._watchdog.seconds_left() + STALL_POLL_SECONDS))
        events, self._events = self._events, []
        return events

    def answer(self, key: int, *, prune: bool) -> None:
        """Let a trial that reported go on or stop. Nothing happens where it has ended."""
        trial = self._trials.get(key)
        if trial is None:
            return
        if not trial.awaits_answer:
            raise ValueError(f"trial {key} has no report that waits for an answer")
        trial.awaits_answer = False
        self._watchdog.hear(key)
        trial.channel.send({"prune": prune})

    def kill(self, key: int) -> None:
        """End a trial and wait until all its processes are gone. Its key gives no more events."""
        if key in self._trials and self._template:
            self._template.control.send({"type": "kill", "key": key})
            deadline = time.monotonic() + GONE_SECONDS
            while key in self._trials and (left := deadline - time.monotonic()) > 0:
                self._handle_messages(left)
            if key in self._trials:
                raise TrainerError(f"the processes of trial {key} do not end")
        self._events = [event for event in self._events if event.key != key]

    def close(self) -> None:
        """End every trial and the template."""
        if self._template:
            self._end_template(self._template)
        for trial in list(self._trials.values()):
            self._kill_without_template(trial)
            self._forget(trial)
        self._events.clear()

    def _start_template(self) -> _Template:
        template = _spawn_template(self._config)
        try:
            folder = _introduce(template, self._config, self._parameters, jobs=self._jobs)
        except BaseException:
            template.process.kill()
            _end(template)
            raise
        self._template = template = replace(template, folder=folder)
        self._selector.register(template.control, selectors.EVENT_READ)
        return template

    def _end_template(self, template: _Template) -> None:
        self._template = None
        self._selector.unregister(template.control)
        _end(template)

    def _handle_messages(self, timeout: float) -> None:
        for ready, _ in self._selector.select(timeout):
            if ready.data is None:
                self._handle_control()
            elif trial := self._trials.get(ready.data):
                self._handle_trial(trial)
        self._end_stalled()

    def _end_stalled(self) -> None:
        """End what has been silent for too long; the template tells when its processes are gone."""
        for key in self._watchdog.silent():
            self._watchdog.forget(key)
            trial = self._trials[key]
            trial.last_words = trial.last_words or {
                "type": "failed",
                "kind": "stalled",
                "reason": self._watchdog.reason(),
            }
            if self._template:
                self._template.control.send({"type": "kill", "key": key})

    def _handle_control(self) -> None:
        """The template tells which trials have ended, or has ended itself: nobody could tell of their end then."""
        if (template := self._template) is None:
            return
        for message in template.control.receive_available():
            self._conclude(
                self._trials[message["key"]], f"its process {describe_exit(message['code'])} before the fit was over"
            )
        if template.control.closed:
            self._end_template(template)
            for trial in list(self._trials.values()):
                self._kill_without_template(trial)
                self._conclude(trial, "the template process that it came from was lost")

    def _handle_trial(self, trial: _Trial) -> None:
        for message in trial.channel.receive_available():
            self._watchdog.hear(trial.key)
            match message["type"]:
                case "started":
                    trial.group = message["pid"]
                case "reported":
                    trial.awaits_answer = True
                    self._watchdog.forget(trial.key)
                    self._events.append(reported(trial.key, message))
                case "finished":
                    trial.last_words = message
                case "failed":
                    trial.last_words = trial.last_words or message  # it may have been ended for its silence
        if trial.channel.closed and trial.channel in self._selector.get_map():
            self._selector.unregister(trial.channel)  # the template will tell when the process has ended

    def _kill_without_template(self, trial: _Trial) -> None:
        """The kernel ends the trial's first process, we its group; its socket closes with the last of them."""
        deadline = time.monotonic() + GONE_SECONDS
        is_gone = False
        while not is_gone and time.monotonic() < deadline:
            self._handle_trial(trial)
            is_gone = trial.channel.closed
            if trial.group is not None:
                kill_trial(trial.group)
            time.sleep(0 if is_gone else GONE_POLL_SECONDS)

    def _conclude(self, trial: _Trial, end: str) -> None:
        """Tell how a trial went, now that nothing of it is left."""
        self._handle_trial(trial)  # for its last words
        self._forget(trial)
        words = trial.last_words or {"type": "failed", "kind": "killed", "reason": end}
        words = blame_memory(words, before=trial.oom_kills)
        self._events.append(ended(trial.key, words, directory=trial.directory))

    def _forget(self, trial: _Trial) -> None:
        if trial.channel in self._selector.get_map():
            self._selector.unregister(trial.channel)
        trial.channel.close()
        self._watchdog.forget(trial.key)
        del self._trials[trial.key]


def _spawn_template(config: TrainerConfig) -> _Template:
    ours, theirs = open_channel_pair()
    output = tempfile.TemporaryFile()  # noqa: SIM115  closed with the template
    arguments = [json.dumps(sys.path), str(theirs.fileno()), str(os.getpid())]
    environment = {
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait slow a busy machine down 10 to 30 times
        **without_launcher(os.environ),
        "OMP_NUM_THREADS": str(config.threads),  # else Lightning chooses for its ranks
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # asking for GPUs must not start CUDA before the fork
    }
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", BOOT, *arguments],  # a json.py in this folder is not what BOOT imports
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=environment,
        pass_fds=[theirs.fileno()],
        start_new_session=True,  # Ctrl-C reaches the study's process only, which decides
    )
    theirs.close()
    return _Template(process=process, control=ours, output=output)


def _introduce(template: _Template, config: TrainerConfig, parameters: tuple[str, ...], *, jobs: int) -> str:
    """Hand over the study's code, wait until it is imported, and hear of its folder. Raises TrainerError."""
    template.control.send({"config": config.to_json(), "names": parameters, "jobs": jobs})
    with selectors.DefaultSelector() as selector:
        selector.register(template.control, selectors.EVENT_READ)
        if not selector.select(START_SECONDS):
            raise TrainerError(f"importing {config.subject} takes more than {START_SECONDS:.0f} s")
    answer = template.control.receive()
    if answer is None:
        end = describe_exit(template.process.wait(GONE_SECONDS))
        raise TrainerError(f"the process that imports {config.subject} {end}\n{tail(template.output)}".rstrip())
    if answer["type"] == "error":
        raise ERRORS_BY_NAME[answer["error"]](answer["message"])
    return str(answer["folder"])


def _end(template: _Template) -> None:
    """Close its socket, at which it ends its trials and then itself; use force where it does not."""
    template.control.close()
    try:
        template.process.wait(GONE_SECONDS)
    except subprocess.TimeoutExpired:
        template.process.kill()
        template.process.wait()
    template.output.close()
    if template.folder:
        shutil.rmtree(template.folder, ignore_errors=True)  # it may have had no time to
