"""What `hpo plan` prints and draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from hpo.cli.options import check_figure, existing_url
from hpo.cli.show import duration, number, open_console, print_json, simple_table
from hpo.cli.source import PATIENCE_SECONDS, server_to_ask
from hpo.cli.text import escape
from hpo.errors import SettingsError

Fields: TypeAlias = Mapping[str, Any]  # as `hpo.answers.plan` says it


def plan_study(
    study_file: Path,
    *,
    trials: int | None,
    jobs: int,
    price: float | None,
    storage: str | None,
    server: str | None,
    figure: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """`hpo plan`."""
    check_figure(figure, force=force)
    if price is not None and not 0.0 < price < float("inf"):
        raise SettingsError(f"--price {price:g}: the price of an hour of training is above 0")
    if (address := server_to_ask(storage, server)) is not None:
        from hpo.client.client import Client

        with Client(address, patience_seconds=PATIENCE_SECONDS) as client:
            found: Fields = client.plan(study_file, trials=trials, jobs=jobs, price_per_hour=price)
            if figure is not None:
                asked: dict[str, Any] = {"trials": trials, "jobs": jobs, "price_per_hour": price}
                client.draw_plan(figure, study_file, **asked, overwrite=force)
    else:
        found = _foretold(study_file, trials=trials, jobs=jobs, price=price, storage=storage, figure=figure)
    if as_json:
        print_json(found)
        return
    _print(found)
    if figure is not None:
        print(f"drawn: {figure}")


def _foretold(
    study_file: Path, *, trials: int | None, jobs: int, price: float | None, storage: str | None, figure: Path | None
) -> Fields:
    from hpo.answers.plan import forecast_fields
    from hpo.decisions.forecast import forecast
    from hpo.one_thread import one_thread
    from hpo.studies.study_file import load_spec

    spec = load_spec(study_file, trials=trials)
    with one_thread(), _counting() as tell:
        found = forecast(_store(storage), spec, jobs=jobs, price_per_hour=price, tell=tell)
    if figure is not None:
        from hpo.figures.forecast_figure import save_figure

        save_figure(found, figure)
    return forecast_fields(found)


def _store(storage: str | None) -> Any:
    """The history; None where there is none yet, which is no error before a first study."""
    from storage.schema import open_store

    try:
        url = existing_url(storage)
    except SettingsError as error:
        if "there is no history" in str(error):
            return None
        raise
    return open_store(url, upgrade=False)


@contextmanager
def _counting() -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal while recorded tasks are tuned again."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    bar = Progress(
        TextColumn("tuning recorded tasks again"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    with bar:
        task = bar.add_task("", total=None, visible=False)
        yield lambda done, of_all: bar.update(task, completed=done, total=of_all, visible=True)


def _print(found: Fields) -> None:
    console = open_console()
    count = len(found["past_tasks"])
    tasks = f"{count} past task{'' if count == 1 else 's'}"
    console.print(f"[bold]{escape(found['study'])}[/]  {escape(found['metric'])} ({found['direction']}), {tasks}")
    if found["statement"] is not None:
        console.print(escape(found["statement"]), soft_wrap=True)
    if any(stage["value"] is not None or stage["hours"] is not None for stage in found["stages"]):
        console.print(_table(found))
    for sentence in _sentences(found):
        console.print(escape(sentence), soft_wrap=True)


def _table(found: Fields) -> Any:
    has_values, has_prices = found["scale"] == "metric", found["price_per_hour"] is not None
    columns = ["trials"]
    columns += [escape(found["metric"]), "95% of new tasks"] if has_values else []
    columns += ["of the way", "95% of tasks", "tasks", "held", "time", "95% of times"]
    columns += ["money", "95% of prices"] if has_prices else []
    table = simple_table(*columns, numbers=columns)
    for stage in found["stages"]:
        table.add_row(
            str(stage["trials"]),
            *(_cells(stage["value"], number) if has_values else ()),
            *_cells(stage["share_of_the_way"], _percent),
            str(stage["tasks"]) if stage["tasks"] else "-",
            "-" if stage["held"] is None else f"{stage['held']} of {stage['tasks']}",
            *_cells(stage["hours"], _time),
            *(_cells(stage["money"], _money) if has_prices else ()),
        )
    return table


def _cells(estimate: Fields | None, text: Callable[[float | None], str]) -> tuple[str, str]:
    if estimate is None:
        return "-", "-"
    if estimate["interval95"] is None:
        return text(estimate["expected"]), "-"
    return text(estimate["expected"]), " … ".join(map(text, estimate["interval95"]))


def _sentences(found: Fields) -> list[str]:
    said = []
    if any(stage["share_of_the_way"] is not None for stage in found["stages"]):
        said.append("of the way: from a task's median trial to the best that is known of it")
    if found["held"] is not None:
        what = found["metric"] if found["scale"] == "metric" else "share of the way"
        last = next((stage for stage in reversed(found["stages"]) if stage["held"] is not None), None)
        at = "" if last is None else f" at {last['trials']} trials for {last['held']} of {last['tasks']},"
        said.append(
            f"held: for how many tasks the others' band of {what} was right;{at} over all numbers of trials "
            f"{found['held']['hits'] / found['held']['cases']:.1%}"
        )
    if found["replayed"]:
        said.append(
            f"{found['replayed']} of the tasks were recorded elsewhere: the tuner was replayed among their "
            "configurations; what it would find itself may be better"
        )
    if any(stage["hours"] is not None for stage in found["stages"]):
        side = "one trial at a time" if found["jobs"] == 1 else f"{found['jobs']} trials side by side"
        shares = ((found["failed"], "failed"), (found["pruned"], "were pruned"))
        rates = [f"{rate:.0%} {what}" for rate, what in shares if rate]
        past = f"; of the past trials {' and '.join(rates)}, which is in the times" if rates else ""
        said.append(f"time: {side}, on hardware like that of the past{past}")
    elif found["past_tasks"]:
        said.append("time: not known, for no past trial says how long it trained")
    if found["price_per_hour"] is not None and any(stage["money"] is not None for stage in found["stages"]):
        said.append(f"money: {found['price_per_hour']:g} for an hour that one trial trains")
    return [*said, *found["notes"]]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _time(hours: float | None) -> str:
    return duration(None if hours is None else 3600.0 * hours)


def _money(amount: float | None) -> str:
    if amount is None:
        return "-"
    return f"{amount:,.2f}" if amount >= 0.1 else f"{amount:.2g}"
