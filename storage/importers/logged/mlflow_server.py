"""What a reader needs of MLflow: experiments, runs page by page, and the histories of a metric for many runs at once.

Nothing is written, and nothing is created: a store that is not there, or that is not MLflow's, is an error.
"""

import logging
import os
import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from sqlalchemy import create_engine, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from storage.errors import ImportFailedError, did_you_mean
from storage.importers.runs import Curve
from storage.masking import without_secrets

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RUNS_PER_PAGE = 1_000
RUNS_PER_QUERY = 200  # whose histories are read together, from a database
RUNS_PER_REQUEST = 50  # the same from a server: the ids stand in the address, whose length is limited
POINTS_PER_QUERY = 1_000_000
POINTS_PER_REQUEST = 25_000  # MLflow's limit
REQUESTS_AT_ONCE = 8
BULK_ENDPOINT = "/ajax-api/2.0/mlflow/metrics/get-history-bulk"


@dataclass(frozen=True, kw_only=True)
class ServerPlace:
    """Where MLflow is."""

    uri: str  # as MLflow takes it
    location: str  # for people: without passwords
    short: str  # a name for it


class MlflowServer:
    """A tracking server, a database or a folder with runs. Raises ImportFailedError where it does not answer."""

    def __init__(self, place: ServerPlace) -> None:
        self._place = place
        _check_is_there(place)
        with self._translated():
            self._client = _client(place.uri)
            self._store: Any = self._client._tracking_client.store
        self._can_bulk = True

    def experiments(self, wanted: Sequence[str] = ()) -> dict[str, str]:
        """The names of the experiments by id; of all that are active, or of those wanted, by name or id."""
        from mlflow.entities import ViewType  # noqa: PLC0415 - MLflow takes seconds to import

        found: dict[str, str] = {}
        token = None
        with self._translated():
            while True:
                page = self._client.search_experiments(
                    view_type=ViewType.ACTIVE_ONLY, max_results=RUNS_PER_PAGE, page_token=token
                )
                found |= {str(experiment.experiment_id): str(experiment.name) for experiment in page}
                token = page.token
                if not token:
                    break
        if not wanted:
            return found
        for name in wanted:
            if name not in found and name not in found.values():
                known = f"; it has {', '.join(map(repr, list(found.values())[:10]))}"
                hint = did_you_mean(name, found.values()) or known
                raise ImportFailedError(f"MLflow at {self._place.location} has no experiment {name!r}{hint}")
        return {number: name for number, name in found.items() if number in wanted or name in wanted}

    def runs(self, experiments: Sequence[str], *, query: str = "") -> Iterator["Run"]:
        """The runs of experiments, by id, that are not deleted, oldest first; each once.

        A page of 1,000 is one call. Runs that come while it is being read are at the end.
        """
        from mlflow.entities import ViewType  # noqa: PLC0415

        seen: set[str] = set()
        token = None
        while experiments:
            with self._translated():
                page = self._client.search_runs(
                    list(experiments),
                    filter_string=query,
                    run_view_type=ViewType.ACTIVE_ONLY,
                    max_results=RUNS_PER_PAGE,
                    order_by=["attributes.start_time ASC"],
                    page_token=token,
                )
            for run in page:
                if run.info.run_id not in seen:
                    seen.add(run.info.run_id)
                    yield run
            token = page.token
            if not token:
                return

    def histories(self, run_ids: Sequence[str], metric: str) -> dict[str, Curve]:
        """All logged values of a metric for each run, by step, in the order in which they were logged."""
        with self._translated():
            if hasattr(self._store, "get_metric_history_bulk"):
                return self._by_slices(run_ids, metric, RUNS_PER_QUERY, self._query)
            if hasattr(self._store, "get_host_creds") and self._can_bulk:
                return self._by_slices(run_ids, metric, RUNS_PER_REQUEST, self._request)
            return self._one_by_one(run_ids, metric)

    def _by_slices(self, run_ids: Sequence[str], metric: str, size: int, read: Any) -> dict[str, Curve]:
        found: dict[str, Curve] = {}
        for start in range(0, len(run_ids), size):
            found |= read(run_ids[start : start + size], metric)
        return found

    def _query(self, run_ids: Sequence[str], metric: str) -> dict[str, Curve]:
        points = self._store.get_metric_history_bulk(run_ids, metric, POINTS_PER_QUERY)
        found: dict[str, Curve] = {
            run_id: [(int(point.step), float(point.value)) for point in some]
            for run_id, some in groupby(points, key=lambda point: str(point.run_id))
        }
        return found if len(points) < POINTS_PER_QUERY else self._one_by_one(run_ids, metric)

    def _request(self, run_ids: Sequence[str], metric: str) -> dict[str, Curve]:
        """Through the door of MLflow's own pages; a server that has none is asked run by run."""
        from mlflow.utils.rest_utils import http_request  # noqa: PLC0415

        if not self._can_bulk:
            return self._one_by_one(run_ids, metric)
        response = http_request(  # type: ignore[no-untyped-call]
            self._store.get_host_creds(),
            BULK_ENDPOINT,
            "GET",
            params={"run_id": list(run_ids), "metric_key": metric, "max_results": POINTS_PER_REQUEST},
            raise_on_status=False,
        )
        points = _points(response)
        if points is None:
            self._can_bulk = False
            return self._one_by_one(run_ids, metric)
        if len(points) >= POINTS_PER_REQUEST:  # cut off somewhere
            return self._one_by_one(run_ids, metric)
        found: dict[str, list[tuple[int, float]]] = {}
        for point in points:
            found.setdefault(str(point["run_id"]), []).append((int(point["step"]), float(point["value"])))
        return dict(found.items())

    def _one_by_one(self, run_ids: Sequence[str], metric: str) -> dict[str, Curve]:
        def read(run_id: str) -> Curve:
            return [(int(point.step), float(point.value)) for point in self._client.get_metric_history(run_id, metric)]

        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
            return dict(zip(run_ids, pool.map(read, run_ids), strict=True))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Errors of MLflow, of its database and of the network as one that says where."""
        try:
            yield
        except mlflow_errors() as error:
            reason = str(getattr(error, "orig", None) or error).strip().splitlines()
            told = without_secrets(reason[0]) if reason else type(error).__name__
            raise ImportFailedError(f"MLflow at {self._place.location} cannot be read: {told}") from error


def mlflow_errors() -> tuple[type[Exception], ...]:
    """What is raised where MLflow, its database or the network does not do as asked."""
    from mlflow.exceptions import MlflowException  # noqa: PLC0415 - MLflow takes seconds to import

    return MlflowException, SQLAlchemyError, OSError  # of the network, too: `requests` raises OSErrors


def _points(response: Any) -> list[dict[str, Any]] | None:
    """The answer's points; None where the server does not know the question."""
    if response.status_code != 200:
        return None
    try:
        points = response.json()["metrics"]
    except (ValueError, KeyError, TypeError):
        return None
    return points if isinstance(points, list) else None


# Where it is


def place_of(uri: str) -> ServerPlace:
    """What a user's URI or path means. Raises ImportFailedError where it means nothing."""
    scheme = urlsplit(uri).scheme.lower()
    if scheme in ("http", "https"):
        parts = urlsplit(uri)
        host = parts.netloc.rpartition("@")[2]
        return ServerPlace(uri=uri, location=f"{scheme}://{host}{parts.path.rstrip('/')}", short=host)
    if scheme in ("", "file"):
        path = Path(unquote(urlsplit(uri).path) if scheme else uri).expanduser().absolute()
        if path.is_file():
            return place_of(f"sqlite:///{path}")
        return ServerPlace(uri=path.as_uri(), location=str(path), short=f"{path.parent.name}/{path.name}".strip("/"))
    if scheme.startswith(("databricks", "uc")):
        return ServerPlace(uri=uri, location=uri, short=uri.replace("://", ":"))
    try:
        url = make_url(uri)
    except ArgumentError as error:
        raise ImportFailedError(
            f"{without_secrets(uri)!r} is no place of MLflow's: give http://HOST:PORT, sqlite:///FILE, a database's "
            "URL or a folder"
        ) from error
    if url.get_backend_name() == "sqlite" and url.database:
        path = Path(url.database).expanduser().absolute()
        return ServerPlace(
            uri=f"sqlite:///{path}", location=str(path), short=f"{path.parent.name}/{path.name}".strip("/")
        )
    location = url._replace(username=None, password=None).render_as_string(hide_password=True)
    return ServerPlace(uri=uri, location=location, short=f"{url.host or 'localhost'}/{url.database}")


def _check_is_there(place: ServerPlace) -> None:
    """Raise where MLflow would make an empty store, or add its tables to a database of somebody else's."""
    scheme = urlsplit(place.uri).scheme
    if scheme == "file":
        folder = Path(unquote(urlsplit(place.uri).path))
        if not any(folder.glob("*/meta.yaml")):
            raise ImportFailedError(f"{place.location}: no folder with MLflow's runs, such as mlruns")
    elif scheme not in ("http", "https") and not scheme.startswith(("databricks", "uc")):
        _check_database(place)


def _check_database(place: ServerPlace) -> None:
    try:
        if place.uri.startswith("sqlite:"):
            with sqlite3.connect(f"{Path(place.location).as_uri()}?mode=ro", uri=True) as connection:
                query = "SELECT count(*) FROM sqlite_master WHERE name IN ('experiments', 'runs', 'latest_metrics')"
                ((tables,),) = connection.execute(query)
            connection.close()
            is_mlflow = tables == 3
        else:
            engine = create_engine(place.uri)
            is_mlflow = all(inspect(engine).has_table(table) for table in ("experiments", "runs", "latest_metrics"))
            engine.dispose()
    except sqlite3.Error as error:
        missing = not Path(place.location).exists()
        reason = "no such file" if missing else f"no readable database: {error}"
        raise ImportFailedError(f"{place.location}: {reason}") from error
    except (SQLAlchemyError, ImportError) as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise ImportFailedError(f"{place.location}: cannot be read: {without_secrets(reason)}") from error
    if not is_mlflow:
        raise ImportFailedError(f"{place.location}: no database of MLflow's, it lacks the tables of runs")


def _client(uri: str) -> "MlflowClient":
    """A client that keeps quiet and reports to nobody."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # it is only read
    from mlflow import MlflowClient  # noqa: PLC0415

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri)
