"""What `hpo advise` prints and writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from optuna.distributions import BaseDistribution, CategoricalDistribution

from hpo.cli.options import check_figure
from hpo.cli.show import number, open_console, print_json, simple_table
from hpo.cli.source import Source
from hpo.cli.text import escape, visible
from hpo.errors import SettingsError
from hpo.spaces.space import describe
from hpo.statistics.range_advice import SHARE, TOLERANCE
from storage.distributions import distribution_of

if TYPE_CHECKING:
    from hpo.decisions.advised_file import AdvisedFile

Fields: TypeAlias = Mapping[str, Any]  # as `hpo.answers.advice` says it
FEW_TASKS = 3  # with fewer nothing can be promised


@dataclass(frozen=True, kw_only=True)
class _Region:
    """What is advised for one parameter."""

    name: str
    distribution: BaseDistribution  # the whole range
    likely: tuple[Any, ...]  # (low, high), or choices
    hardly_matters: bool
    said: Fields  # all of it


def advise_and_write(
    source: Source,
    target: str,
    *,
    together: bool,
    write: Path | None,
    hard: bool,
    plot: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """`hpo advise`."""
    if hard and write is None:
        raise SettingsError("--hard goes with --write STUDY.yaml: it narrows the ranges of that file")
    check_figure(plot, force=force, option="--plot")
    advice = source.advise(target, together=together)
    regions = [_region(each) for each in advice["parameters"]]
    file = None
    if write is not None:
        from hpo.decisions.advised_file import advised_file

        file = advised_file(write, regions, hard=hard)
    is_written = file is not None and bool(file.changed) and force
    if file is not None and is_written:
        file.write()
    if plot is not None:
        source.draw_advice(plot, target, together=together, overwrite=force)
    if as_json:
        print_json({**advice} | ({} if file is None else {"file": _file_fields(file, is_written)}))
    else:
        _print(advice, regions)
        if file is not None:
            _print_file(file, hard=hard, is_written=is_written)
        if plot is not None:
            print(f"drawn: {plot}")
    if file is not None and file.changed and not is_written:
        raise SettingsError(f"{file.path} is as it was; --force writes these changes")


def _region(said: Fields) -> _Region:
    return _Region(
        name=said["name"],
        distribution=distribution_of(said["name"], said["distribution"]),
        likely=tuple(said["likely"]),
        hardly_matters=said["hardly_matters"],
        said=said,
    )


# What is printed ------------------------------------------------------------------------------------------------------


def _print(advice: Fields, regions: list[_Region]) -> None:
    console = open_console()
    tasks = len(advice["tasks"])
    metric = f"{advice['metric'] or 'value'} ({advice['direction']})"
    console.print(
        f"[bold]{escape(advice['family'])}[/]  {escape(metric)}, {_count(tasks, 'past task')}, {advice['runs']:,} runs"
    )
    if advice["target"] != advice["family"]:
        own = (
            f"its own runs count as one of the {tasks} tasks"
            if advice["own_task"]
            else "it has no runs to speak of itself"
        )
        remark = own if tasks > 1 else "it is the only one"
        console.print(f"for task {escape(advice['target'])}: what its family advises; {remark}")
    table = simple_table(
        "parameter", "range", "a good value is likely in", "kept", "tasks hit", "95% interval", "promise", "",
        numbers=("kept", "tasks hit", "95% interval", "promise"),
    )  # fmt: skip
    for region in regions:
        said, t = region.said, region.said["tasks"]
        low, high = said["hit_rate_interval95"] or (0.0, 1.0)
        table.add_row(
            escape(region.name),
            escape(describe(region.distribution)),
            "[dim]anywhere[/]" if said["is_everything"] else f"[bold]{escape(_region_text(region))}[/]",
            f"{said['kept']:.0%}",
            f"{_hits(said['hits'])} of {t}" if t > 1 else "-",
            f"{low:.0%} … {high:.0%}" if t > 1 else "-",
            "-" if said["is_everything"] or t < FEW_TASKS else f"{_floor_percent(said['promise'])}",
            escape(_remark(said, tasks)),
        )
    console.print(table)
    for sentence in _sentences(advice):
        console.print(escape(sentence), soft_wrap=True)


def _sentences(advice: Fields) -> list[str]:
    tasks = len(advice["tasks"])
    said = [
        f"good: at most {TOLERANCE:.0%} of the way from a task's best configuration to its median one, by a model "
        "of its runs"
    ]
    if tasks == 1:
        said.append("one task only: this is where its own good values lie, and says nothing about how tasks differ")
        return said + _about_left_out(advice)
    if tasks < FEW_TASKS:
        said.append("two tasks: the regions span what both found good; how much tasks differ is hardly known yet")
    else:
        said.append("tasks hit: each one left out, with a good value where the others advise; promise: for a new task")
    if FEW_TASKS <= tasks < 20:
        said.append(f"{tasks} tasks cannot promise {SHARE:.0%}, which takes 20: the regions meet all of them")
    joint = advice["joint"]
    low, high = joint["hit_rate_interval95"]
    sentence = (
        f"all at once: {joint['hit_rate']:.0%} of the tasks ({low:.0%} … {high:.0%}) have a good configuration inside "
        "all regions that the others advise"
    )
    if joint["hit_rate"] < SHARE and not advice["together"]:
        sentence += "; --together widens them until more have"
    return [*said, sentence, *_about_left_out(advice)]


def _about_left_out(advice: Fields) -> list[str]:
    said = []
    if advice["left_out"]:
        said.append(f"left out, with too few finished runs: {', '.join(advice['left_out'])}")
    if advice["unused"]:
        said.append(f"no advice where nothing varied: {', '.join(advice['unused'])}")
    return said


def _region_text(region: _Region) -> str:
    if isinstance(region.distribution, CategoricalDistribution):
        return ", ".join(map(str, region.likely))
    low, high = region.likely
    return number(float(low)) if low == high else f"{number(float(low))} … {number(float(high))}"


def _remark(said: Fields, tasks: int) -> str:
    remarks = []
    for parent, values in (said["when"] or {}).items():
        remarks.append(f"when {parent} is {' or '.join(map(str, values))}")
    if said["hardly_matters"]:
        remarks.append("hardly matters")
    elif said["tasks"] < tasks:
        remarks.append(f"used by {_count(said['tasks'], 'task')}")
    return ", ".join(remarks)


def _hits(hits: float) -> str:
    return f"{hits:.0f}" if abs(hits - round(hits)) < 0.05 else f"{hits:.1f}"


def _floor_percent(share: float) -> str:
    return f"{int(100 * share + 1e-9)}%"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _print_file(file: AdvisedFile, *, hard: bool, is_written: bool) -> None:
    console = open_console()
    what = "narrower ranges" if hard else "likely values"
    if not file.changed:
        print(f"\n{file.path}: nothing to change")
    else:
        print(f"\n{file.path}: {what}{' written' if is_written else ', not yet written'}")
    for line in file.diff:
        colour = {"-": "red", "+": "green"}.get(line[:1], "dim")
        console.print(f"[{colour}]{escape(line)}[/]", soft_wrap=True)
    for name, reason in file.left.items():
        print(f"  {visible(name)} stays: {visible(reason)}")


def _file_fields(file: AdvisedFile, is_written: bool) -> dict[str, Any]:
    return {"path": file.path, "written": is_written, "changed": file.changed, "left": file.left, "diff": file.diff}
