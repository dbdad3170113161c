"""What the columns of a table of runs are: parameters, results, or what is known about each run besides.

Names decide. Programs that write tables mark parameters and results by a prefix (`params_lr`, `metrics.val_loss`,
`config/lr`); where there is none, a numeric column whose name tells a metric is a result, names like `run_id`, `seed`,
`duration` or `status` are what they say, and the rest are parameters.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from storage.importers.inference import ABSENT, SEED_NAMES, guess_direction
from storage.importers.mapping import RunMapping

PARAMETER_PREFIXES = ("params_", "params.", "params/", "param.", "config/", "config.", "hparams/", "hparams.")
RESULT_PREFIXES = ("metrics.", "metrics/", "metrics_", "values_")
ATTRIBUTE_PREFIXES = ("user_attrs_", "tags.", "attributes.")
LEFT_OUT_PREFIXES = ("system_attrs_", "system/", "intermediate_values_")


def _words(*lines: str) -> tuple[str, ...]:
    return tuple(" ".join(lines).split())


RESULT_NAMES = _words("value objective objective_value target y result fitness metric performance")
KEYS = _words("id run_id runid run_uuid uuid key trial_id trial_number number trial run")
STATE = _words("state status run_status run_state trial_state")
STARTED = _words("started_at start_time started start datetime_start start_date created_at created begin begin_time")
FINISHED = _words("finished_at end_time finished end datetime_complete completed_at ended_at ended end_date")
ERROR = _words("error_message exception traceback failure failure_reason")
CODE = _words("code_version git_commit git_sha commit commit_hash git_hash")
DATA = _words("data_fingerprint dataset_hash data_version data_hash")
HARDWARE = _words("hardware gpu_type gpu_name device_name")
EPOCHS = _words("epoch epochs_run epochs_trained training_iteration")
ROLES: Mapping[str, Sequence[str]] = {
    "key": KEYS,
    "state": STATE,
    "started_at": STARTED,
    "finished_at": FINISHED,
    "seed": SEED_NAMES,
    "error": ERROR,
    "code_version": CODE,
    "data_fingerprint": DATA,
    "hardware": HARDWARE,
    "epochs": EPOCHS,
}
NAMES_OF_RUNS = _words(
    "name run_name experiment experiment_name experiment_id artifact_uri lifecycle_stage user notes tags description",
    "comment path run_dir logdir log_dir hostname host node_ip pid date timestamp sweep group job_type",
)
_COST = re.compile(
    r"(cost|duration|runtime|run_time|elapsed|elapsed_time|wall_?time|wall_?clock(_time)?|train_time|training_time"
    r"|fit_time|time|time_total)(_(?P<unit>s|sec|secs|seconds|ms|min|mins|minutes|h|hours))?|seconds"
)
_SECONDS = {"ms": 1e-3, "m": 60.0, "h": 3_600.0, "s": 1.0}
_SETTINGS = _words(  # last words of parameters whose names tell a metric: entropy_coef, loss_weight
    "coef coefficient coeff weight weights lambda alpha beta gamma scale size type fn func function name threshold",
    "tolerance tol margin clip window schedule power factor smoothing decay temperature eps epsilon reduction",
)


@dataclass(kw_only=True)
class Columns:
    """Which column, counted from 0, is what."""

    params: dict[str, int] = field(default_factory=dict)
    results: dict[str, int] = field(default_factory=dict)
    attributes: dict[str, int] = field(default_factory=dict)
    task: int | None = None
    roles: dict[str, int] = field(default_factory=dict)  # of ROLES, and cost_seconds
    cost_factor: float = 1.0  # to seconds
    left_out: list[str] = field(default_factory=list)


def key_column(header: Sequence[str], mapping: RunMapping, reserved: set[int]) -> int | None:
    """The column that names the runs, if there is one."""
    return _first(header, KEYS, reserved | {place for place, name in enumerate(header) if _is_dropped(name, mapping)})


def sort_columns(
    header: Sequence[str],
    mapping: RunMapping,
    *,
    task: int | None,
    metric: str | None,
    is_numeric: Callable[[int], bool],
    is_duration: Callable[[int], bool],
) -> Columns:
    """What each column is. metric: as the user named it, or None.

    is_numeric: whether most of a column are numbers; is_duration: whether they are durations.
    """
    found = Columns(task=task)
    wanted = set(mapping.old_names(metric)) if metric is not None else set()
    taken = {task} - {None}
    for place, name in enumerate(header):
        bare = _without(name, RESULT_PREFIXES)
        if place not in taken and (not name or _is_dropped(name, mapping) or name.startswith(LEFT_OUT_PREFIXES)):
            found.left_out.append(name or f"the one at place {place + 1}, which has no name")
            taken.add(place)
        elif place not in taken and (name in wanted or bare in wanted):
            found.results[name if name in wanted or bare is None else bare] = place
            taken.add(place)
    for role, names in ROLES.items():
        place_of_role = _first(header, names, taken)
        if place_of_role is not None:
            found.roles[role] = place_of_role
            taken.add(place_of_role)
    has_prefixes = any(name.startswith(PARAMETER_PREFIXES) for name in header)
    for place, name in enumerate(header):
        if place in taken:
            continue
        cost = _COST.fullmatch(_plain(name))
        if cost is not None and "cost_seconds" not in found.roles and is_duration(place):
            found.roles["cost_seconds"], found.cost_factor = place, _SECONDS[_unit(cost["unit"])]
        else:
            _file(found, place, name, is_numeric(place), has_prefixes)
    return found


def _file(found: Columns, place: int, name: str, is_numeric: bool, has_prefixes: bool) -> None:
    """Put a column where it belongs that has no role by its name alone."""
    if (inner := _without(name, PARAMETER_PREFIXES)) is not None:
        found.params[inner] = place
    elif (inner := _without(name, RESULT_PREFIXES)) is not None:
        found.results[inner] = place
    elif (inner := _without(name, ATTRIBUTE_PREFIXES)) is not None or _plain(name) in NAMES_OF_RUNS:
        found.attributes[inner or name] = place
    elif is_numeric and (_plain(name) in RESULT_NAMES or is_result(name)):
        found.results[name] = place
    else:
        (found.attributes if has_prefixes else found.params)[name] = place


def is_result(name: str) -> bool:
    """Whether the name of a column of numbers tells a metric rather than a parameter such as `entropy_coef`."""
    words = _plain(name).split("_")
    return guess_direction(name) is not None and words[-1] not in _SETTINGS and words != ["precision"]


def _first(header: Sequence[str], names: Sequence[str], taken: Collection[int | None]) -> int | None:
    """The first column with one of the names, by the order of the names."""
    plain = {_plain(name): place for place, name in reversed(list(enumerate(header))) if place not in taken}
    return next((plain[name] for name in names if name in plain), None)


def _is_dropped(name: str, mapping: RunMapping) -> bool:
    return bool(mapping.drop) and not mapping.params({name: ABSENT})


def _without(name: str, prefixes: Sequence[str]) -> str | None:
    """The name without its prefix; None where it has none of them."""
    for prefix in prefixes:
        if name.startswith(prefix) and len(name) > len(prefix):
            return name.removeprefix(prefix)
    return None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _unit(unit: str | None) -> str:
    if unit in (None, "s", "sec", "secs", "seconds"):
        return "s"
    return unit if unit in ("ms",) else str(unit)[0]
