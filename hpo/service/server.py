"""The service as one process: how are its parts started, who stops them, and in which order?

The store comes first, then what listens; parts that work (`Part`) start once requests are answered, and stop after the
last one was. What a part leaves behind when it is killed, it finds itself when it is started again.
"""

from __future__ import annotations

import getpass
import logging
import os
import resource
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from socket import socket
from types import FrameType
from typing import Protocol

import uvicorn

from hpo import tracing
from hpo.errors import SettingsError
from hpo.running.executors import HERE, Placement
from hpo.service.address import Address, check_exposure, listen
from hpo.service.jobs import Jobs
from hpo.service.mlflow_child import MlflowServer
from hpo.service.patience import ImpatientProtocol
from hpo.service.settings import ServiceSettings
from hpo.service.state import Service
from hpo.service.supervisor import Supervisor
from hpo.settings import refuse_shared_database
from storage import tokens
from storage.audit import Doer
from storage.database import Store
from storage.errors import StorageError
from storage.masking import without_secrets
from storage.schema import open_store

APPLICATION = "dashboards.app"  # pages and API; by its name, for imports point the other way
CALL_SECONDS = 3.0  # how long a request waits for a history that is away
GRACE_SECONDS = 10  # for requests that are being answered when the service ends
KEEP_ALIVE_SECONDS = 75  # longer than proxies keep theirs, so that it is they who close
MOST_CONNECTIONS = 2_000
SECONDS_PER_DAY = 86_400.0
MLFLOW_PREFIX = "/mlflow"
LOCAL_STORES = ("sqlite", "file:", "postgresql", "mysql", "mssql")  # whose UI is for us to start


class Part(Protocol):
    """What works beside the requests."""

    def start(self) -> None:
        """Begin; returns at once."""

    def why_not_well(self) -> str | None:
        """Why it is not well; None: it is."""

    def stop(self) -> None:
        """End cleanly; returns when it has."""


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """What `hpo serve` was told."""

    address: Address
    storage: str  # URL of the history
    mlflow: str | None  # tracking URI; None: studies are followed nowhere
    runs: Path
    projects: Path
    placement: Placement = HERE
    settings: ServiceSettings = field(default_factory=ServiceSettings)
    has_mlflow_ui: bool = True


@dataclass(frozen=True, kw_only=True)
class Announcement:
    """What whoever started the service needs to know."""

    url: str
    login: str | None  # the first run's link, with a new admin's token in it; None: somebody has one
    storage: str
    mlflow: str | None
    has_mlflow_ui: bool  # under /mlflow, in half a minute
    runs: Path
    projects: Path


def serve(options: ServerOptions, *, announce: Callable[[Announcement], None]) -> None:
    """Run until SIGTERM or Ctrl-C. announce: called once it answers.

    Raises SettingsError, StorageError; KeyboardInterrupt where it is told again while it is ending. What it has started
    then ends by itself once this process does.
    """
    if not options.projects.is_dir():
        raise SettingsError(f"--projects {options.projects}: there is no such folder")
    refuse_shared_database(options.storage, options.mlflow)
    _prepare_traces()
    _allow_many_connections()
    with ExitStack() as at_the_end:
        listening = at_the_end.enter_context(listen(options.address))
        store = open_store(options.storage, patience_seconds=CALL_SECONDS)
        at_the_end.callback(store.dispose)
        check_exposure(options.address, store)
        _Server(options, store, listening.getsockname()[1], announce).run(listening)


class _Server:
    """The parts around one store, from their start to their end."""

    def __init__(
        self, options: ServerOptions, store: Store, port: int, announce: Callable[[Announcement], None]
    ) -> None:
        self._options, self._store, self._announce = options, store, announce
        self._url = options.address.url(port)
        self._starting = threading.Thread(target=self._start_parts, name="starting")
        self._mlflow = _mlflow_server(options)
        needed: dict[str, Callable[[], str | None]] = {}  # without which the service is not ready
        self._service = Service(
            store=store,
            mlflow_uri=options.mlflow,
            runs=options.runs,
            projects=options.projects,
            mlflow_upstream=None if self._mlflow is None else self._mlflow.socket,
            is_secure=options.address.has_tls,
            hosts=options.address.names,
            has_open_metrics=options.settings.metrics == "open",
            parts=needed,
            packages=frozenset(options.settings.packages),
            import_hosts=frozenset(options.settings.import_hosts),
            placement=options.placement,
            limits=options.settings.limits.limits(),
        )
        supervisor = Supervisor(self._service)
        needed["supervisor"] = supervisor.why_not_well
        jobs = Jobs(self._service)
        needed["background jobs"] = jobs.why_not_well
        self._parts: list[Part] = [supervisor, jobs, *([] if self._mlflow is None else [self._mlflow])]

    def run(self, listening: socket) -> None:
        """Until it is told to end."""
        app = import_module(APPLICATION).create_app(self._service)
        address = self._options.address
        config = uvicorn.Config(
            app,
            http=ImpatientProtocol,
            log_config=None,
            log_level=logging.WARNING,
            access_log=False,  # hpo.api.request_log has more
            server_header=False,
            proxy_headers=bool(address.proxies),
            forwarded_allow_ips=list(address.proxies),
            limit_concurrency=MOST_CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=GRACE_SECONDS,
            ssl_certfile=address.certificate,
            ssl_keyfile=address.key,
        )
        server = _Uvicorn(config, when_ready=self._starting.start, when_ending=self._service.ending.set)
        server.run([listening])
        if server.force_exit:
            raise KeyboardInterrupt
        self._end()

    def _start_parts(self) -> None:
        """Once requests are answered; beside them, for some of it asks the store."""
        for part in self._parts:
            part.start()
        self._announce(
            Announcement(
                url=self._url,
                login=self._first_login(),
                storage=without_secrets(self._store.url),
                mlflow=None if self._options.mlflow is None else without_secrets(self._options.mlflow),
                has_mlflow_ui=self._mlflow is not None,
                runs=self._options.runs,
                projects=self._options.projects,
            )
        )
        with suppress(StorageError):  # it costs memory, so not where nobody asks; whoever does then waits for it
            if self._service.desk.is_awaited():
                self._service.desk.get_ready()

    def _first_login(self) -> str | None:
        """A link with an admin's token in it, made where nobody has one."""
        if tokens.has_tokens(self._store, roles=("admin",)):
            return None
        secret, _ = tokens.create_token(
            self._store,
            owner=_user(),
            role="admin",
            created_by="hpo serve",
            lifetime_seconds=tokens.DEFAULT_DAYS * SECONDS_PER_DAY,
            doer=Doer(who="hpo serve", action="token.create"),
        )
        return f"{self._url}/login#token={secret}"

    def _end(self) -> None:
        """Stop the parts side by side, then what requests have started."""
        if self._starting.ident is not None:
            self._starting.join()
            stops = [threading.Thread(target=part.stop, daemon=True) for part in self._parts]
            for stop in stops:
                stop.start()
            for stop in stops:
                stop.join()
        elif self._mlflow is not None:
            self._mlflow.stop()
        self._service.desk.close()
        self._service.calculations.close()


class _Uvicorn(uvicorn.Server):
    """Says when it answers and when it is to end; ends without an error, and at once when it is told twice."""

    def __init__(
        self, config: uvicorn.Config, *, when_ready: Callable[[], None], when_ending: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._when_ready, self._when_ending = when_ready, when_ending

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """As its base does."""
        await super().startup(sockets)
        self._when_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal has come."""
        self.force_exit = self.should_exit
        self.should_exit = True
        self._when_ending()


def _mlflow_server(options: ServerOptions) -> MlflowServer | None:
    """The UI's server, where it is ours to start."""
    if not options.has_mlflow_ui or options.mlflow is None or not options.mlflow.startswith(LOCAL_STORES):
        return None
    return MlflowServer(options.mlflow, prefix=MLFLOW_PREFIX)


def _prepare_traces() -> None:
    """Raises SettingsError where traces are wanted and cannot be sent."""
    if not tracing.is_wanted():
        return
    if not tracing.is_installed():
        raise SettingsError(
            "OTEL_EXPORTER_OTLP_ENDPOINT says where traces go, but what sends them is not installed: "
            "pip install 'hindsight-hpo[tracing]'"
        )
    os.environ.setdefault("OTEL_SERVICE_NAME", "hindsight")  # here, and in the processes that are started


def _allow_many_connections() -> None:
    """Each takes a file, of which a shell often allows 1,024 only."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MOST_CONNECTIONS if hard == resource.RLIM_INFINITY else min(2 * MOST_CONNECTIONS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "admin"
