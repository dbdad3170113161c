"""How trials run on a Ray cluster: LocalExecutors of one trial each, placed by Ray.

A *place* is an actor that holds the resources of a trial and has imported the study's code. Trials run in it as they do
on one machine, so that process groups, pruning, ranks and the watchdog are the same there. The study's process asks
the places in turns; between two of them a place says nothing. A place that is lost with its node fails its trial as
`killed`, and a new one is asked for, which Ray starts wherever there is room.

Checkpoints and outputs are written where a trial runs: nodes must share the folder of runs.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from trainers.errors import ERRORS_BY_NAME, TrainerError
from trainers.executors import Executor
from trainers.executors.code_copy import copy_code
from trainers.executors.local import LocalExecutor
from trainers.job import Event, Failed, FailureKind, FitJob, Reported, TrainerConfig
from trainers.processes.lifetimes import wait_until

# What Ray prints on a program's standard output although it was told not to, unless it skips such lines as repeated.
os.environ.setdefault(
    "RAY_DEDUP_LOGS_SKIP_REGEX", "Raylet is terminated|marked dead|memory pressure|cannot be scheduled"
)
try:
    import ray
    from ray.exceptions import ActorUnavailableError, GetTimeoutError, OutOfMemoryError, RayError, RayTaskError
except ModuleNotFoundError as error:
    raise TrainerError(f"Ray cannot be imported ({error}): pip install 'hindsight-hpo[ray]'") from error

ADDRESS_VARIABLE = "RAY_ADDRESS"  # Ray's own
JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set in what `ray job submit` runs, which has brought its code itself
TURN_SECONDS = 0.5  # that a place waits for news of its trial before it answers
CALL_SECONDS = 30.0  # for an idle place to answer, or a trial to be gone; after that the place is given up
VERDICT_SECONDS = 10.0  # for Ray to find out that a node is gone
PATIENCE_SECONDS = 300.0  # for an autoscaler to bring a first node that is large enough
QUIET_SECONDS = 10.0  # of waiting for resources before it is told
LOST_STARTS = 3  # places lost in a row while they import, with their nodes there: the code does it (heuristic)
SHORT_OF_MEMORY = "low on memory"  # what Ray says where the error is another than its own of memory
OBJECT_STORE_BYTES = 80 * 2**20  # hardly anything passes through it; Ray takes no less than 75 MiB

# Ray would kill an actor's children, and with them the template, which sees to it that nothing of a trial is left.
ACTOR_ENVIRONMENT = {"RAY_kill_child_processes_on_worker_exit": "false"}

Stage = Literal["placing", "importing", "ready"]


class Place:
    """What runs in an actor: one trial at a time. Each method that lets a trial go on returns its news."""

    def __init__(self) -> None:
        self._executor: LocalExecutor | None = None

    def node(self) -> tuple[str, str]:
        """The name of the machine, and Ray's own for it."""
        return socket.gethostname(), ray.get_runtime_context().get_node_id()

    def start(self, config: TrainerConfig, parameters: Collection[str], folder: str) -> tuple[str, str] | None:
        """Import the study's code, in its working folder where this node has it. A TrainerError as name and message."""
        copy = os.getcwd()  # noqa: PTH109 - of the study's folder, if Ray has brought one
        with suppress(OSError):
            os.chdir(folder)
        python_path = tuple(path if Path(path).is_dir() else copy for path in config.python_path)
        executor = LocalExecutor(replace(config, python_path=tuple(dict.fromkeys(python_path))), jobs=1)
        try:
            executor.start(parameters)
        except TrainerError as error:
            return type(error).__name__, str(error)
        self._executor = executor
        return None

    def launch(self, key: int, job: FitJob) -> list[Event]:
        """Begin a trial."""
        self._here.launch(key, job)
        return self.poll()

    def answer(self, key: int, prune: bool) -> list[Event]:
        """Answer a report."""
        self._here.answer(key, prune=prune)
        return self.poll()

    def poll(self) -> list[Event]:
        """What has happened to the trial."""
        return self._here.poll(TURN_SECONDS)

    def kill(self, key: int) -> None:
        """End a trial."""
        self._here.kill(key)

    def close(self) -> None:
        """End everything."""
        if self._executor:
            self._executor.close()

    @property
    def _here(self) -> LocalExecutor:
        assert self._executor is not None  # start() comes first
        return self._executor


@dataclass(kw_only=True)
class _Place:
    """A place as the study's process sees it."""

    actor: Any
    turn: Any  # the reference to what is awaited of it; None while it is idle
    stage: Stage = "placing"
    since: float  # monotonic time at which it was asked for
    node: str = "an unknown node"
    node_id: str | None = None  # Ray's name for it
    key: int | None = None  # of its trial
    awaits_answer: bool = False


class RayExecutor(Executor):
    """Up to `jobs` trials at once, each in a place of its own, on a Ray cluster.

    address: of a cluster (`auto`, `host:port`, `ray://host:port`); None: that of RAY_ADDRESS, else a cluster on this
    machine that lives as long as this executor. A program that has called `ray.init` keeps its connection.
    resources: Ray's custom ones that a trial needs beside its CPUs (threads x devices) and GPUs.
    notice: is told when trials must wait for resources, or a place is given up.
    Raises TrainerError where no cluster can be reached, or no node of it can hold a trial.
    """

    def __init__(
        self,
        config: TrainerConfig,
        *,
        jobs: int,
        address: str | None = None,
        resources: Mapping[str, float] | None = None,
        notice: Callable[[str], None] = lambda message: None,
    ) -> None:
        if jobs < 1:
            raise ValueError(f"jobs = {jobs} is not a positive number")
        self._config, self._jobs, self._notice = config, jobs, notice
        self._address = address or os.environ.get(ADDRESS_VARIABLE) or None
        self._resources = dict(resources or {})
        self._parameters: tuple[str, ...] = ()
        self._cluster: _Cluster | None = None
        self._needs: dict[str, float] = {}
        self._places: list[_Place] = []
        self._waiting: deque[tuple[int, FitJob]] = deque()  # launched, for a place that is not ready yet
        self._events: list[Event] = []
        self._lost_starts = 0
        self._told_of_waiting = False

    def start(self, parameters: Collection[str] = ()) -> None:
        """Connect, and wait until the first place has imported the user's code and checked the `parameters`."""
        if self._cluster is not None:
            return
        self._parameters = tuple(parameters)
        self._cluster = _connect(self._address, self._config, self._notice)
        try:
            self._needs = needed(self._config, self._resources, _nodes().values())
            self._check_that_it_fits()
            self._places = [self._ask_for_place() for _ in range(self._jobs)]
            self._wait_for_a_place()
        except BaseException:
            self.close()
            raise

    def launch(self, key: int, job: FitJob) -> None:
        """Begin a trial in an idle place, or as soon as there is one."""
        running = self._keys()
        if key in running or len(running) >= self._jobs:
            raise ValueError(f"cannot launch trial {key}: {sorted(running)} run, {self._jobs} may at once")
        if self._cluster is None:
            self.start(self._parameters)
        self._waiting.append((key, job))
        self._fill_places()

    def poll(self, timeout: float) -> list[Event]:
        """What has happened, as soon as something has; nothing after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        self._take_turns(0)
        while not self._events and (left := deadline - time.monotonic()) > 0:
            self._take_turns(left)
        events, self._events = self._events, []
        return events

    def answer(self, key: int, *, prune: bool) -> None:
        """Let a trial that reported go on or stop. Nothing happens where it has ended."""
        place = self._place_of(key)
        if place is None:
            return
        if not place.awaits_answer:
            raise ValueError(f"trial {key} has no report that waits for an answer")
        place.awaits_answer = False
        place.turn = place.actor.answer.remote(key, prune)

    def kill(self, key: int) -> None:
        """End a trial and wait until all its processes are gone. Its key gives no more events."""
        self._waiting = deque((waiting, job) for waiting, job in self._waiting if waiting != key)
        if place := self._place_of(key):
            place.key, place.turn, place.awaits_answer = None, None, False
            try:
                ray.get(place.actor.kill.remote(key), timeout=CALL_SECONDS)
            except RayError as error:
                self._lose(place, error)
        self._events = [event for event in self._events if event.key != key]

    def close(self) -> None:
        """End every trial and every place, and leave the cluster, or end it where it is ours."""
        if self._cluster is None:
            return
        cluster, self._cluster = self._cluster, None
        farewells = [place.actor.close.remote() for place in self._places if place.stage != "placing"]
        try:
            if farewells:
                ray.wait(farewells, num_returns=len(farewells), timeout=CALL_SECONDS)
        finally:
            for place in self._places:
                _end(place.actor)
            self._places.clear()
            self._waiting.clear()
            self._events.clear()
            cluster.leave()

    # Places ---------------------------------------------------------------------------------------------------------

    def _ask_for_place(self) -> _Place:
        custom = {name: amount for name, amount in self._needs.items() if name not in ("CPU", "GPU")}
        options = {
            "num_cpus": self._needs["CPU"],
            "num_gpus": self._needs.get("GPU", 0),
            "resources": custom,
            "runtime_env": {"env_vars": ACTOR_ENVIRONMENT},
            "max_restarts": 0,
        }
        actor: Any = ray.remote(Place).options(**options).remote()
        return _Place(actor=actor, turn=actor.node.remote(), since=time.monotonic())

    def _check_that_it_fits(self) -> None:
        """Raises TrainerError at once on a cluster of ours; another one may grow."""
        assert self._cluster is not None
        lacking = shortfall(self._needs, _nodes().values())
        if lacking and self._cluster.is_ours:
            raise TrainerError(f"a trial asks for more than this machine has: {lacking}")

    def _wait_for_a_place(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not any(place.stage == "ready" for place in self._places):
            self._take_turns(1.0)
            if time.monotonic() > deadline and (lacking := shortfall(self._needs, _nodes().values())):
                raise TrainerError(f"no node of the Ray cluster can hold a trial: {lacking}")

    def _take_turns(self, timeout: float) -> None:
        """Hear what places have to say, and let idle ones begin what waits."""
        by_turn = {place.turn: place for place in self._places if place.turn is not None}
        if by_turn:
            heard, _ = ray.wait(list(by_turn), timeout=timeout)
            for turn in heard:
                self._hear(by_turn[turn], turn)
        else:
            time.sleep(timeout)
        self._fill_places()
        self._tell_of_waiting()

    def _hear(self, place: _Place, turn: Any) -> None:
        place.turn = None
        try:
            said = ray.get(turn)
        except RayError as error:
            self._lose(place, error)
            return
        if place.stage == "placing":
            place.stage = "importing"
            place.node, place.node_id = said
            place.turn = place.actor.start.remote(self._config, self._parameters, str(Path.cwd()))
        elif place.stage == "importing":
            self._welcome(place, said)
        else:
            self._note(place, said)

    def _welcome(self, place: _Place, refusal: tuple[str, str] | None) -> None:
        """A place whose node cannot run the study is given up; without any place the study cannot run at all."""
        if refusal is None:
            place.stage, self._lost_starts = "ready", 0
            return
        name, message = refusal
        self._give_up(place, ERRORS_BY_NAME.get(name, TrainerError)(message))

    def _give_up(self, place: _Place, error: TrainerError) -> None:
        self._places.remove(place)
        _end(place.actor)
        if not any(other.stage == "ready" for other in self._places):
            raise error
        self._notice(f"no trial can run on {place.node}, {len(self._places)} places are left: {error}")

    def _note(self, place: _Place, events: list[Event]) -> None:
        self._events += events
        if any(not isinstance(event, Reported) for event in events):
            place.key = None
        elif events:
            place.awaits_answer = True
        else:
            place.turn = place.actor.poll.remote()

    def _lose(self, place: _Place, error: RayError) -> None:
        """Fail the trial of a place that is lost, and ask for another place."""
        final = self._final(place, error)
        cause = why(final)
        if place.key is not None:
            reason = f"its place on {place.node} was lost: {cause}"
            self._events.append(Failed(key=place.key, kind=kind_of(final), reason=reason, output_tail=""))
        if place.stage == "importing" and place.node_id in _nodes():
            self._lost_starts += 1
            if self._lost_starts >= LOST_STARTS:
                self._give_up(
                    place, TrainerError(f"places are lost while they start, the last on {place.node}: {cause}")
                )
                return
        _end(place.actor)  # should it only be out of reach
        self._places[self._places.index(place)] = self._ask_for_place()
        self._told_of_waiting = False

    def _final(self, place: _Place, error: RayError) -> RayError:
        """What became of a place that cannot be reached; Ray finds that out while it is asked for it."""
        if isinstance(error, ActorUnavailableError):
            try:
                ray.get(place.actor.node.remote(), timeout=VERDICT_SECONDS)
            except RayError as final:
                return final
        return error

    def _fill_places(self) -> None:
        while self._waiting and (place := self._idle_place()):
            key, job = self._waiting.popleft()
            place.key, place.turn = key, place.actor.launch.remote(key, job)

    def _idle_place(self) -> _Place | None:
        """One that still answers: what is lost while it is idle is lost without a word."""
        for place in list(self._places):
            if place.stage == "ready" and place.key is None:
                try:
                    ray.get(place.actor.node.remote(), timeout=CALL_SECONDS)
                except RayError as error:
                    self._lose(place, error)
                else:
                    return place
        return None

    def _tell_of_waiting(self) -> None:
        """Say once what keeps places from being placed."""
        late = [
            place
            for place in self._places
            if place.stage == "placing" and time.monotonic() - place.since > QUIET_SECONDS
        ]
        if late and not self._told_of_waiting:
            self._told_of_waiting = True
            lacking = shortfall(self._needs, _nodes().values())
            why_not = f"no node has that: {lacking}" if lacking else "all nodes that have it are taken"
            self._notice(f"{len(late)} of {len(self._places)} places wait for {_listed(self._needs)}; {why_not}")

    def _keys(self) -> set[int]:
        return {key for key, _ in self._waiting} | {place.key for place in self._places if place.key is not None}

    def _place_of(self, key: int) -> _Place | None:
        return next((place for place in self._places if place.key == key), None)


# Resources ----------------------------------------------------------------------------------------------------------


def needed(
    config: TrainerConfig, resources: Mapping[str, float], nodes: Collection[Mapping[str, float]]
) -> dict[str, float]:
    """What a trial asks of a node: CPUs, GPUs where they are the accelerator (`auto`: where there are any), the rest.

    nodes: the resources of each.
    """
    needs: dict[str, float] = {"CPU": config.threads * config.devices, **resources}
    has_gpus = any(node.get("GPU", 0) for node in nodes)
    if config.accelerator in ("gpu", "cuda") or (config.accelerator == "auto" and has_gpus):
        needs["GPU"] = 1 / config.trials_per_device if config.devices == 1 else config.devices
    return needs


def shortfall(needs: Mapping[str, float], nodes: Collection[Mapping[str, float]]) -> str | None:
    """Why no node could hold a trial, be it empty; None where one could."""
    if any(all(node.get(name, 0) >= amount for name, amount in needs.items()) for node in nodes):
        return None
    most = {name: max((node.get(name, 0) for node in nodes), default=0) for name in needs}
    lacking = [
        f"{name} {amount:g} (the most is {most[name]:g})" for name, amount in needs.items() if most[name] < amount
    ]
    return ", ".join(lacking) or f"no single node has {_listed(needs)}"


def kind_of(error: RayError) -> FailureKind:
    """What became of the trial of a place that is lost: Ray itself ends what takes a node's last memory."""
    is_memory = isinstance(error, OutOfMemoryError) or SHORT_OF_MEMORY in str(error)
    return "out_of_memory" if is_memory else "killed"


def why(error: RayError) -> str:
    """What Ray says of a loss, in one line."""
    if isinstance(error, RayTaskError):
        return str(error.cause)
    if isinstance(error, GetTimeoutError):
        return "it does not answer"
    if isinstance(error, ActorUnavailableError):
        return "it is out of reach"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "because" in line or "memory" in line]
    return (telling or lines or [type(error).__name__])[0]


def _listed(needs: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {amount:g}" for name, amount in needs.items())


def _nodes() -> dict[str, Mapping[str, float]]:
    """The resources of every node that is alive, by Ray's name for it."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]  # Ray has not typed it
    return {node["NodeID"]: node["Resources"] for node in nodes if node["Alive"]}


def _end(actor: Any) -> None:
    with suppress(RayError, ValueError):
        ray.kill(actor)


# The cluster --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Cluster:
    is_ours: bool
    is_connected_by_us: bool
    folder: str | None = None  # what Ray keeps on disk, where it is ours; else the copy of the code that it was given

    def leave(self) -> None:
        if self.is_connected_by_us:
            ray.shutdown()
        if self.folder:
            wait_until(self._is_removed, seconds=CALL_SECONDS)

    def _is_removed(self) -> bool:
        """Ray's processes write until they are gone."""
        assert self.folder is not None
        shutil.rmtree(self.folder, ignore_errors=True)
        return not Path(self.folder).exists()


def _connect(address: str | None, config: TrainerConfig, notice: Callable[[str], None]) -> _Cluster:
    """Raises TrainerError."""
    if ray.is_initialized():
        return _Cluster(is_ours=False, is_connected_by_us=False)
    is_ours = address in (None, "local")
    if not is_ours:
        _check_that_somebody_listens(str(address))
    folder = tempfile.mkdtemp(prefix="hindsight-ray-") if is_ours else _code_for_nodes(config, notice)
    options = _for_ours(str(folder)) if is_ours else _for_theirs(str(address), folder)
    cluster = _Cluster(is_ours=is_ours, is_connected_by_us=True, folder=folder)
    try:
        with _quiet(), _own_signals():
            ray.init(**options, log_to_driver=False, configure_logging=False)
    except (RayError, ConnectionError, OSError, RuntimeError, ValueError) as error:
        cluster.leave()
        what = "no Ray cluster can be started here" if is_ours else f"no Ray cluster can be used at {address}"
        raise TrainerError(f"{what}: {str(error).strip() or type(error).__name__}") from error
    except BaseException:
        cluster.leave()
        raise
    return cluster


def _check_that_somebody_listens(address: str) -> None:
    """Ray would try for ten minutes. Raises TrainerError."""
    host, _, port = address.removeprefix("ray://").partition("/")[0].rpartition(":")
    if not port.isdecimal():  # `auto`, or what other programs make of an address
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CALL_SECONDS).close()
    except OSError as error:
        raise TrainerError(f"no Ray cluster can be reached at {address}: {error}") from error


def _for_ours(folder: str) -> dict[str, Any]:
    return {
        "address": "local",
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
        "_temp_dir": folder,
    }


def _for_theirs(address: str, code: str | None) -> dict[str, Any]:
    return {"address": address} | ({} if code is None else {"runtime_env": {"working_dir": code}})


def _code_for_nodes(config: TrainerConfig, notice: Callable[[str], None]) -> str | None:
    """A copy of the code in the study's folder, for nodes that do not have the folder."""
    if not config.python_path or JOB_VARIABLE in os.environ:
        return None
    try:
        return copy_code(Path(config.python_path[0]))
    except (TrainerError, OSError) as error:
        notice(f"nodes get no copy of the study's code and must see its folder: {error}")
        return None


@contextmanager
def _quiet() -> Iterator[None]:
    """No telemetry, and nothing in the user's terminal that is not an error."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else a warning that this will be so
    logger = logging.getLogger("ray")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself; what the program does with it shall stay."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
