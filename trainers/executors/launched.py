"""How trials run by a command line of the user's own: torchrun, srun, a script that starts many processes.

Each trial is that command line. Every process that it starts connects back, with the trial's token, and rank 0 speaks
the same messages as other trials do. The connections are also what ties them together: when the study's process ends
a trial, or is gone, every rank sees its connection close and ends itself, on whatever machine it is; and a rank whose
connection is lost ends the trial.
"""

from __future__ import annotations

import os
import secrets
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from socket import gethostname
from typing import IO

from trainers.devices.oom_kills import has_killed_since, oom_kills
from trainers.errors import ERRORS_BY_NAME, TrainerError
from trainers.executors import Executor
from trainers.executors.events import ended, reported, tail
from trainers.job import OUTPUT_LOG, Event, FitJob, TrainerConfig
from trainers.processes.channel import Channel, Message
from trainers.processes.lifetimes import TRIAL_VARIABLE, describe_exit, kill_group, kill_trial, wait_until
from trainers.processes.remote_channel import TOKEN_VARIABLE, Door, Visitor, is_token
from trainers.processes.watchdog import Watchdog

COMMAND, SLOT = "{command}", "{slot}"  # what a command line has places for
LOOPBACK = "127.0.0.1"
LOOK_SECONDS = 0.1  # between looks at launchers
QUEUE_SECONDS = 30.0  # without any process, after which it is said that the launcher is waited for
LEAVE_SECONDS = 15.0  # for a launcher to end by itself, once a rank has failed or is lost
FINISH_SECONDS = 60.0  # and once rank 0 has finished
TERM_SECONDS = 5.0  # for a launcher to pass on that it is to end
GONE_SECONDS = 10.0  # for killed processes to be gone
START = f'{TRIAL_VARIABLE}=$$; export {TRIAL_VARIABLE}; exec "$@"'  # the trial is named by its launcher's process id


@dataclass(kw_only=True)
class _Rank:
    channel: Channel
    host: str
    has_spoken: bool = False  # its last words


@dataclass(kw_only=True)
class _Launch:
    """A running command line: a trial, or the check at the start."""

    key: int | None  # None: the check
    slot: int
    order: Message  # what every rank is told
    token: str
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    directory: Path
    started: float
    oom_kills: int | None = field(default_factory=oom_kills)  # of this machine, when it was started
    ranks: dict[int, _Rank] = field(default_factory=dict)
    awaits_answer: bool = False
    last_words: Message | None = None
    deadline: float | None = None  # monotonic time by which the launcher has to be gone


class LaunchedExecutor(Executor):
    """Up to `jobs` trials at once, each a run of the `command` line.

    command: has a place for `{command}`, what every process of a trial is to run, and may have one for `{slot}`, which
    of the trials side by side it is (0, 1, ...). As many processes as devices x nodes are expected.
    host: an address of this machine at which the processes reach it.
    Raises TrainerError where the command line cannot be used.
    """

    def __init__(
        self,
        config: TrainerConfig,
        *,
        jobs: int,
        command: str,
        host: str = LOOPBACK,
        notice: Callable[[str], None] = lambda message: None,
    ) -> None:
        if jobs < 1:
            raise ValueError(f"jobs = {jobs} is not a positive number")
        self._config, self._jobs, self._notice = config, jobs, notice
        self._words = split_command(command)
        self._host = host
        self._door: Door | None = None
        self._launches: dict[int | None, _Launch] = {}  # by key
        self._events: list[Event] = []
        self._watchdog = Watchdog(minutes=config.stall_minutes)
        self._selector = selectors.DefaultSelector()

    def start(self, parameters: Collection[str] = ()) -> None:
        """Let the launcher start the processes of one trial, which see whether they can train the study."""
        if self._door is not None:
            return
        program = self._words[0]
        if COMMAND not in program and shutil.which(program, path=_path()) is None:
            raise TrainerError(f"the launcher cannot be used: there is no program {program!r}")
        try:
            self._door = Door(self._host)
        except OSError as error:
            raise TrainerError(f"{self._host!r} is no address of this machine: {error}") from error
        self._selector.register(self._door, selectors.EVENT_READ)
        try:
            self._check(parameters)
        except BaseException:
            self.close()
            raise

    def launch(self, key: int, job: FitJob) -> None:
        """Run the command line for a trial."""
        if key in self._launches or len(self._launches) == self._jobs:
            raise ValueError(
                f"cannot launch trial {key}: {sorted(self._launches, key=str)} run, {self._jobs} may at once"
            )
        if self._door is None:
            self.start()
        slot = min(set(range(self._jobs)) - {launch.slot for launch in self._launches.values()})
        directory = Path(job.directory)
        order = {"type": "fit", "config": self._config.to_json(), "job": job.to_json(), "slot": slot}
        try:
            directory.mkdir(parents=True, exist_ok=True)
            output = (directory / OUTPUT_LOG).open("w+b")
        except OSError as error:
            words = {"type": "failed", "kind": "exception", "reason": f"{type(error).__name__}: {error}"}
            self._events.append(ended(key, words, directory=directory))
            return
        self._run(key, order, slot=slot, directory=directory, output=output)

    def poll(self, timeout: float) -> list[Event]:
        """What has happened, as soon as something has; nothing after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        self._look(0)
        while not self._events and (left := deadline - time.monotonic()) > 0:
            self._look(left)
        events, self._events = self._events, []
        return events

    def answer(self, key: int, *, prune: bool) -> None:
        """Let a trial that reported go on or stop. Nothing happens where it has ended."""
        launch = self._launches.get(key)
        if launch is None:
            return
        if not launch.awaits_answer:
            raise ValueError(f"trial {key} has no report that waits for an answer")
        launch.awaits_answer = False
        self._watchdog.hear(key)
        launch.ranks[0].channel.send({"prune": prune})

    def kill(self, key: int) -> None:
        """End a trial and wait until its launcher is gone, and all that it started here. Its key gives no more events.

        Processes on other machines end as soon as they see that their connection is closed.
        """
        if launch := self._launches.get(key):
            self._end(launch)
            self._forget(launch)
        self._events = [event for event in self._events if event.key != key]

    def close(self) -> None:
        """End every trial, and listen no more."""
        for launch in list(self._launches.values()):
            self._end(launch)
            self._forget(launch)
        for registered in list(self._selector.get_map().values()):
            if isinstance(registered.fileobj, Visitor):
                self._selector.unregister(registered.fileobj)
                registered.fileobj.turn_away()
        if self._door is not None:
            self._selector.unregister(self._door)
            self._door.close()
            self._door = None
        self._events.clear()

    # Launches -------------------------------------------------------------------------------------------------------

    def _check(self, parameters: Collection[str]) -> None:
        order = {"type": "check", "config": self._config.to_json(), "names": list(parameters)}
        with tempfile.TemporaryFile() as output:
            launch = self._run(None, order, slot=0, directory=Path(tempfile.gettempdir()), output=output)
            is_told = False
            while launch.key in self._launches:
                self._look(LOOK_SECONDS)
                if not is_told and not launch.ranks and time.monotonic() > launch.started + QUEUE_SECONDS:
                    self._notice(f"waiting for the processes that {self._words[0]} is to start")
                    is_told = True
            words = launch.last_words
            if words is None:
                end = describe_exit(launch.process.returncode)
                raise TrainerError(f"the launcher {end} before all ranks had started\n{tail(output)}".rstrip())
            if words["type"] == "error":
                raise ERRORS_BY_NAME.get(words["error"], TrainerError)(words["message"])

    def _run(self, key: int | None, order: Message, *, slot: int, directory: Path, output: IO[bytes]) -> _Launch:
        assert self._door is not None
        token = secrets.token_hex(16)
        environment = {
            "OMP_WAIT_POLICY": "PASSIVE",
            **os.environ,
            "OMP_NUM_THREADS": str(self._config.threads),
            "PATH": _path(),
            TOKEN_VARIABLE: token,
        }
        command = (sys.executable, "-m", "trainers.executors.launched_rank", self._door.address)
        process = subprocess.Popen(
            ["/bin/sh", "-c", START, "sh", *fill_in(self._words, command, slot=slot)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches the study's process only, which decides
        )
        launch = _Launch(
            key=key,
            slot=slot,
            order=order,
            token=token,
            process=process,
            output=output,
            directory=directory,
            started=time.monotonic(),
        )
        self._launches[key] = launch
        return launch

    def _look(self, timeout: float) -> None:
        """Hear who speaks, and see which launchers have ended."""
        for ready, _ in self._selector.select(min(timeout, LOOK_SECONDS)):
            if isinstance(ready.fileobj, Door):
                self._open(ready.fileobj)
            elif isinstance(ready.fileobj, Visitor):
                self._receive(ready.fileobj)
            elif ready.data[0] in self._launches:
                self._hear(self._launches[ready.data[0]], ready.data[1])
        for launch in list(self._launches.values()):
            is_late = launch.deadline is not None and time.monotonic() > launch.deadline
            if is_late or launch.process.poll() is not None:
                self._conclude(launch)
        self._end_stalled()
        self._turn_away_the_silent()

    def _end_stalled(self) -> None:
        for key in self._watchdog.silent():
            self._watchdog.forget(key)
            launch = self._launches[key]
            reason = self._watchdog.reason()
            launch.last_words = launch.last_words or {"type": "failed", "kind": "stalled", "reason": reason}
            launch.deadline = time.monotonic()

    def _open(self, door: Door) -> None:
        if visitor := door.open():
            self._selector.register(visitor, selectors.EVENT_READ)

    def _receive(self, visitor: Visitor) -> None:
        """Let a rank in that has the token of a launch, and tell it what to do."""
        try:
            hello = visitor.hello()
        except ValueError:
            self._selector.unregister(visitor)
            visitor.turn_away()
            return
        if hello is None:
            return
        self._selector.unregister(visitor)
        launch = next((each for each in self._launches.values() if is_token(hello["token"], each.token)), None)
        if launch is None:
            visitor.turn_away()
            return
        channel = visitor.admit()
        channel.receive()  # the hello
        self._admit(launch, channel, hello)

    def _admit(self, launch: _Launch, channel: Channel, hello: Message) -> None:
        rank, world_size = int(hello["rank"]), int(hello["world_size"])
        expected = self._config.devices * self._config.nodes
        if world_size != expected or rank in launch.ranks:
            channel.close()
            twice = f"two processes of rank {rank}" if rank in launch.ranks else f"{world_size} processes"
            self._fail(
                launch,
                f"the launcher has started {twice}, where devices = {self._config.devices} x nodes = "
                f"{self._config.nodes} of the study's trainer section ask for {expected}",
            )
            return
        launch.ranks[rank] = _Rank(channel=channel, host=str(hello["host"]))
        self._selector.register(channel, selectors.EVENT_READ, (launch.key, rank))
        self._note_life(launch)
        channel.send(launch.order)

    def _fail(self, launch: _Launch, reason: str) -> None:
        words = {"type": "failed", "kind": "exception", "reason": reason}
        if launch.key is None:
            words = {"type": "error", "error": TrainerError.__name__, "message": reason}
        launch.last_words = launch.last_words or words
        launch.deadline = time.monotonic()

    def _hear(self, launch: _Launch, number: int) -> None:
        rank = launch.ranks[number]
        for message in rank.channel.receive_available():
            self._note_life(launch)
            match message["type"]:
                case "reported" if number == 0 and launch.key is not None:
                    launch.awaits_answer = True
                    self._watchdog.forget(launch.key)
                    self._events.append(reported(launch.key, message))
                case "finished" | "ready":
                    rank.has_spoken = True
                    self._note_success(launch, number, message)
                    rank.channel.send({"type": "heard"})
                case "failed" | "error":
                    rank.has_spoken = True
                    self._note_failure(launch, message)
                    rank.channel.send({"type": "heard"})
        if rank.channel.closed and rank.channel in self._selector.get_map():
            self._selector.unregister(rank.channel)
            if not rank.has_spoken:
                self._expect_end(launch, LEAVE_SECONDS)

    def _note_life(self, launch: _Launch) -> None:
        if launch.key is not None:
            self._watchdog.hear(launch.key)

    def _note_success(self, launch: _Launch, number: int, message: Message) -> None:
        if number == 0:
            launch.last_words = launch.last_words or message
            self._expect_end(launch, FINISH_SECONDS)

    def _note_failure(self, launch: _Launch, message: Message) -> None:
        """The first failure counts, unless a rank was lost before: that explains what the others say."""
        for number in [number for number, rank in launch.ranks.items() if not rank.has_spoken]:
            self._hear(launch, number)
        if self._lost(launch) is None:
            launch.last_words = launch.last_words or message
        self._expect_end(launch, LEAVE_SECONDS)

    def _expect_end(self, launch: _Launch, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        launch.deadline = deadline if launch.deadline is None else min(launch.deadline, deadline)

    def _lost(self, launch: _Launch) -> str | None:
        """The first rank that has left without its last words."""
        lost = [
            f"rank {n} on {rank.host}"
            for n, rank in launch.ranks.items()
            if rank.channel.closed and not rank.has_spoken
        ]
        return lost[0] if lost else None

    def _is_lost_here(self, launch: _Launch) -> bool:
        """Whether a rank on this machine has left without its last words."""
        ranks = launch.ranks.values()
        return any(rank.channel.closed and not rank.has_spoken and rank.host == gethostname() for rank in ranks)

    def _conclude(self, launch: _Launch) -> None:
        """Tell how a trial went, now that its launcher is gone."""
        for number in launch.ranks:
            self._hear(launch, number)
        lost, is_lost_here = self._lost(launch), self._is_lost_here(launch)
        self._end(launch)
        if launch.key is not None:
            end = describe_exit(launch.process.returncode)
            how = f"{lost} was lost" if lost else f"its launcher {end}"
            words = {"type": "failed", "kind": "killed", "reason": f"{how} before the fit was over"}
            if (is_lost_here or "SIGKILL" in end) and has_killed_since(launch.oom_kills):
                words |= {"kind": "out_of_memory", "reason": f"{how}; the kernel did it: memory had run out"}
            self._events.append(ended(launch.key, launch.last_words or words, directory=launch.directory))
        self._forget(launch)

    def _end(self, launch: _Launch) -> None:
        """End the processes of a launch: close their connections, ask the launcher to end, and use force here."""
        for rank in launch.ranks.values():
            if rank.channel in self._selector.get_map():
                self._selector.unregister(rank.channel)
            rank.channel.close()
        if launch.process.poll() is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(launch.process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                launch.process.wait(TERM_SECONDS)
        kill_trial(launch.process.pid)
        launch.process.wait()
        wait_until(lambda: not kill_group(launch.process.pid), seconds=GONE_SECONDS)

    def _forget(self, launch: _Launch) -> None:
        if launch.key is not None:
            self._watchdog.forget(launch.key)
            launch.output.close()
        del self._launches[launch.key]

    def _turn_away_the_silent(self) -> None:
        for registered in list(self._selector.get_map().values()):
            visitor = registered.fileobj
            if isinstance(visitor, Visitor) and visitor.is_overdue:
                self._selector.unregister(visitor)
                visitor.turn_away()


# The command line -----------------------------------------------------------------------------------------------


def split_command(command: str) -> tuple[str, ...]:
    """The words of a command line, which must have a place for the trial's own. Raises TrainerError."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise TrainerError(f"the launcher's command line {command!r} is not understood: {error}") from error
    if not any(COMMAND in word for word in words):
        raise TrainerError(
            f"the launcher's command line {command!r} has no place for {COMMAND}, which stands for what every process "
            f"of a trial runs: e.g. torchrun --nproc-per-node=2 {COMMAND}"
        )
    if COMMAND in words and "--no-python" not in words and _is_torchrun(words[: words.index(COMMAND)]):
        words.insert(words.index(COMMAND), "--no-python")  # else it would take `python` for a script
    return tuple(words)


def fill_in(words: Collection[str], command: Collection[str], *, slot: int) -> list[str]:
    """The words of the command line with the trial's own in their place; quoted where they are part of a word."""
    filled: list[str] = []
    for word in words:
        if word == COMMAND:
            filled += command
        else:
            filled.append(word.replace(COMMAND, shlex.join(command)).replace(SLOT, str(slot)))
    return filled


def _is_torchrun(words: list[str]) -> bool:
    return any(Path(word).name == "torchrun" or word == "torch.distributed.run" for word in words)


def _path() -> str:
    """PATH, and after it the folder of this Python, whose `torchrun` is found where an environment is not activated."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])
