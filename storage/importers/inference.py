"""What the parameters and the metric of past runs must have been: types, ranges, scales, conditions, directions.

Everything here is a guess from what was observed, and every guess that is not obvious comes with a note that tells its
evidence. A reader collects the raw values of a task's runs as columns, asks `infer_space` for the space, and then
`params_in` for each run's configuration in that space; a run that does not fit is rejected with the reason.

In a column, `ABSENT` stands for a run that does not have the parameter. `None` is a value like others.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final

Fields = Mapping[str, Any]
"""One parameter in the words of a study file: `{"type": "float", "low": 1e-5, "high": 0.1, "log": True}`."""


class Absent(Enum):
    """The type of `ABSENT`."""

    ABSENT = "absent"


ABSENT: Final = Absent.ABSENT

MAX_CHOICES = 100  # of a categorical parameter; heuristic: more of them are names, not choices
MIN_RUNS_FOR_IDENTIFIERS = 6  # fewer runs may well have tried something else each
NUMBERS_OF_A_SCALE = 10  # with so many different ones a column is a scale and no list of choices; heuristic
FEW = 0.05  # of the values in a column: words among numbers that are slips; heuristic
LOG_DECADES = 2.0  # a positive range at least this wide is searched on a log scale
SAFE_INTEGER = 2**53  # beyond it, doubles skip integers
SEED_NAMES = ("seed", "random_seed", "random_state", "seed_everything", "rng_seed")

_INTEGER = re.compile(r"[+-]?(0|[1-9]\d{0,30})")
_FLOAT = re.compile(r"[+-]?(\d+\.\d*|\.\d+|(\d+\.?\d*|\.\d+)[eE][+-]?\d{1,4}|inf(inity)?|nan)", re.IGNORECASE)
_HUGE = 10**300  # no double holds more
_PLAIN = frozenset((bool, int, float, type(None), Absent))
_WORDS: Mapping[str, Any] = {
    "None": None,
    "null": None,
    **dict.fromkeys(("True", "true", "TRUE"), True),
    **dict.fromkeys(("False", "false", "FALSE"), False),
}
_LOOKS_UNIQUE = re.compile(  # a hash, a date, a time, a path, an address
    r"\b[0-9a-f]{8,}\b|\d{4}-\d\d-\d\d|\d\d[-:_]\d\d[-:_]\d\d|^(\.{0,2}/|~|[a-z]:\\|\w+://)", re.IGNORECASE
)


# Single values


def repair(value: Any) -> Any:
    """A parameter's value with its type: text that is a number, a truth value or None becomes what it says.

    Lists and dictionaries become JSON text; text that is neither number nor word stays as it is.
    """
    if isinstance(value, str):
        return _repair_text(value)
    if type(value) in _PLAIN:
        return value if type(value) is not int or abs(value) < _HUGE else str(value)
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:  # NumPy's numbers
        return repair(value.item())
    if hasattr(value, "tolist"):
        value = value.tolist()
    try:
        return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    except (TypeError, ValueError):  # keys that cannot be sorted, or that refer to themselves
        return str(value)


@lru_cache(maxsize=65_536)
def _repair_text(text: str) -> Any:
    word = text.strip()
    if word in _WORDS:
        return _WORDS[word]
    if _INTEGER.fullmatch(word):
        return int(word)
    return float(word) if _FLOAT.fullmatch(word) else text


def split_seed(params: Mapping[str, Any]) -> tuple[int | None, dict[str, Any]]:
    """The seed among the parameters, if one says so and is an integer, and the parameters without it."""
    rest = {name: value for name, value in params.items() if name.rpartition("/")[2].lower() not in SEED_NAMES}
    seeds = {repair(value) for name, value in params.items() if name not in rest}
    found = [seed for seed in seeds if type(seed) is int and abs(seed) < 2**63]
    return (found[0] if len(found) == 1 else None), rest


# The space


def infer_space(
    columns: Mapping[str, Sequence[Any]],
    known: Mapping[str, Fields] | None = None,
    *,
    declared: Mapping[str, Fields] | None = None,
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The space that runs were drawn from, and notes on what was guessed.

    columns: for each parameter its value in every run, `ABSENT` where it has none; all of the same length.
    known: the space so far; its parameters stay what they are and become wider where the runs lie outside.
    declared: parameters which the user has described; they are taken as they are.
    A parameter that never varies, or that looks like a run's name, is not in the space; a note says so. Runs with a
    slip, a word in a column of numbers, count for nothing: `params_in` will reject them.
    """
    declared, known_here = declared or {}, known or {}
    repaired = {name: _repaired(values) for name, values in columns.items() if name not in declared}
    space: dict[str, dict[str, Any]] = {name: dict(fields) for name, fields in known_here.items()}
    notes: list[str] = []
    repaired = _without_slips(repaired, known_here, notes)
    for name, values in repaired.items():
        present = [value for value in values if value is not ABSENT]
        if name in known_here:
            space[name] = _widened(name, known_here[name], present, notes)
        else:
            fields = _guess(name, present, notes)
            if fields is not None:
                space[name] = fields
                if known is not None:
                    notes.append(
                        f"{_shown(name)}: did not vary among the runs that came before, which have no value of it;"
                        " forget the source and import it again to give it to them"
                    )
    space.update({name: dict(fields) for name, fields in declared.items()})
    for name in repaired:
        if name in known_here:
            _loosen_condition(name, space, repaired, notes)
    new = [name for name in repaired if name in space and name not in known_here]
    _find_conditions(new, space, repaired, notes)
    return space, notes


def _repaired(values: Sequence[Any]) -> list[Any]:
    plain = values.tolist() if hasattr(values, "tolist") else values
    return [repair(value) for value in plain]


def _guess(name: str, values: list[Any], notes: list[str]) -> dict[str, Any] | None:
    """The fields of a parameter about which nothing is known yet; None if there is nothing to search over."""
    distinct = _distinct(values)
    if not distinct:
        return None
    if len(distinct) == 1:
        notes.append(f"{_shown(name)}: always {_shown(distinct[0])}, not searched over")
        return None
    numbers = [value for value in distinct if _is_number(value)]
    others = [value for value in distinct if not _is_number(value) and not _is_nonfinite(value)]
    if others == [None] and len(numbers) >= _few(values):
        unset = sum(value is None for value in values)
        notes.append(f"{_shown(name)}: None in {unset} of {len(values)} runs counts as not set")
        others = []
    if not others and len(numbers) > 1:
        return _numeric(name, numbers, notes)
    return _mixed(name, values, distinct, numbers, notes)


def are_slips(words: int, present: int, different_numbers: int) -> bool:
    """Whether the words in a column are slips among its numbers, rather than choices beside them.

    words: how many values are neither number nor None, of those that are present.
    """
    return different_numbers >= NUMBERS_OF_A_SCALE and 0 < words <= max(1.0, FEW * present)


def _without_slips(
    columns: dict[str, list[Any]], known: Mapping[str, Fields], notes: list[str]
) -> dict[str, list[Any]]:
    """The columns without the runs in which a parameter that is a number elsewhere is a word."""
    odd: set[int] = set()
    for name, values in columns.items():
        rows = [row for row, value in enumerate(values) if isinstance(value, bool | str)]
        if name in known or not rows:
            continue
        present = [value for value in values if value is not ABSENT]
        numbers = {value for value in present if _is_number(value)}
        if are_slips(len(rows), len(present), len(numbers)):
            words = _listed(_distinct(values[row] for row in rows))
            count = f"a number in {len(present) - len(rows):,} of {len(present):,} runs"
            notes.append(f"{_shown(name)}: {count}; runs with {words} are rejected. {_hint(name, values[rows[0]])}")
            odd.update(rows)
    if not odd:
        return columns
    return {name: [value for row, value in enumerate(values) if row not in odd] for name, values in columns.items()}


def _hint(name: str, word: Any) -> str:
    """How a user settles what a word among numbers means."""
    example = f"replace: {{{_shown(name)}: {{{_shown(word)}: NUMBER}}}}"
    return f"Where it stands for a number, say so in a mapping file: `{example}`"


def _few(values: Sequence[Any]) -> int:
    """How many distinct numbers beside None are rather choices than a scale. Heuristic."""
    return min(5, max(2, len(values) // 10))


def _mixed(
    name: str, values: list[Any], distinct: list[Any], numbers: list[Any], notes: list[str]
) -> dict[str, Any] | None:
    """A parameter whose values are not all numbers."""
    choices = _as_choices(value for value in distinct if not _is_nonfinite(value))
    if len(choices) < 2:
        notes.append(f"{_shown(name)}: always {_shown(choices[0]) if choices else 'no number'}, not searched over")
        return None
    if len(choices) <= MAX_CHOICES and not _are_identifiers(distinct, len(values)):
        if numbers:
            notes.append(f"{_shown(name)}: categorical ({_listed(choices)}: numbers and others are mixed)")
        return {"type": "categorical", "choices": choices}
    share = sum(_is_number(value) for value in values) / len(values)
    if share >= 0.5 and len(numbers) > 1:
        odd = [value for value in distinct if isinstance(value, bool | str)]
        notes.append(
            f"{_shown(name)}: {share:.0%} of its values are numbers; runs with {_listed(odd)} are rejected."
            f" {_hint(name, odd[0])}"
        )
        return _numeric(name, numbers, notes)
    notes.append(
        f"{_shown(name)}: {len(choices):,} different values in {len(values):,} runs ({_listed(choices)}) look like"
        " names of runs, not searched over"
    )
    return None


def _are_identifiers(distinct: Sequence[Any], count: int) -> bool:
    """Whether (nearly) every run has a text of its own."""
    texts = [value for value in distinct if isinstance(value, str)]
    if len(distinct) < count * (1.0 if count < 20 else 0.9) or len(texts) < len(distinct) / 2:
        return False
    return count >= MIN_RUNS_FOR_IDENTIFIERS or all(_LOOKS_UNIQUE.search(text) for text in texts)


def _as_choices(values: Iterable[Any]) -> list[Any]:
    """Choices that Optuna can tell apart: to it, True is 1 and 1 is 1.0."""
    choices = sorted(values, key=_choice_order)
    truths, numbers = [c for c in choices if isinstance(c, bool)], [c for c in choices if _is_number(c)]
    if truths and any(number in (0, 1) for number in numbers):
        if all(number in (0, 1) for number in numbers) and len(truths) + len(numbers) == len(choices):
            return [False, True] if len({bool(choice) for choice in choices}) == 2 else truths
        return [str(choice) if isinstance(choice, bool) else choice for choice in choices]
    return choices


def _choice_order(value: Any) -> tuple[int, Any]:
    if value is None:
        return 0, 0
    if isinstance(value, bool):
        return 1, value
    return (2, value) if isinstance(value, int | float) else (3, value)


def _numeric(name: str, numbers: Sequence[float], notes: list[str]) -> dict[str, Any]:
    low, high = min(numbers), max(numbers)
    is_int = all(isinstance(number, int) and abs(number) <= SAFE_INTEGER for number in numbers)
    fields: dict[str, Any] = {"type": "int", "low": low, "high": high}
    if not is_int:
        fields = {"type": "float", "low": float(low), "high": float(high)}
    log, evidence = _log_evidence(numbers)
    if log:
        fields["log"] = True
    if evidence:
        notes.append(f"{_shown(name)}: {'log' if log else 'linear'} scale ({evidence})")
    return fields


def _log_evidence(numbers: Sequence[float]) -> tuple[bool, str]:
    """Whether the numbers were drawn on a log scale, and why; no words where there is nothing to say."""
    positive = sorted({float(number) for number in numbers if number > 0})
    if len(positive) < 2 or positive[-1] / positive[0] == math.inf:
        return False, ""
    decades = math.log10(positive[-1] / positive[0])
    spans = f"{positive[0]:g} … {positive[-1]:g} spans {decades:.1f} decades"
    if min(numbers) <= 0:
        wide = decades >= LOG_DECADES and not _is_rather_linear(positive)
        return False, f"{spans}, but {min(numbers):g} is among the values" if wide else ""
    if decades >= LOG_DECADES:
        if _is_rather_linear(positive):
            return False, f"{spans}, but the values are spread evenly"
        return True, spans
    if len(positive) >= 3:
        ratios = [b / a for a, b in pairwise(positive)]
        if min(ratios) >= 1.5 and max(ratios) <= 1.02 * min(ratios):
            return True, f"{_listed(positive)}: each is {ratios[0]:.3g} times the one before"
    if len(positive) >= 10 and decades >= 0.7:
        on_log, on_linear = _unevenness([math.log(number) for number in positive]), _unevenness(positive)
        if on_log < 0.6 * on_linear and on_log < 1.36 / math.sqrt(len(positive)):
            return (
                True,
                f"{positive[0]:g} … {positive[-1]:g}, spread evenly on it: {on_log:.2f} off, {on_linear:.2f} else",
            )
    return False, ""


def _is_rather_linear(numbers: Sequence[float]) -> bool:
    return len(numbers) >= 8 and _unevenness(numbers) < 0.5 * _unevenness([math.log(number) for number in numbers])


def _unevenness(numbers: Sequence[float]) -> float:
    """The Kolmogorov-Smirnov distance of sorted numbers from the uniform distribution on their range."""
    low, width, count = numbers[0], numbers[-1] - numbers[0], len(numbers)
    if width <= 0 or not math.isfinite(width):
        return 1.0
    return max(abs((number - low) / width - (index + 0.5) / count) for index, number in enumerate(numbers))


# Widening what is known


def _widened(name: str, known: Fields, values: list[Any], notes: list[str]) -> dict[str, Any]:
    """The fields of a known parameter, so that they hold the values as well, where that is sound.

    What it does not hold in the end is found by `params_in`, run by run.
    """
    fields, distinct = dict(known), _distinct(values)
    if fields["type"] == "categorical":
        missing = [
            value for value in distinct if not _is_nonfinite(value) and _choice(fields["choices"], value) is None
        ]
        room = max(MAX_CHOICES - len(fields["choices"]), 0)
        fields["choices"] = [*fields["choices"], *_new_choices(missing)[:room]]
        return fields
    numbers = [value for value in distinct if _is_number(value)]
    if fields.get("log"):
        numbers = [number for number in numbers if number > 0]
    broken = [number for number in numbers if number != int(number)] if fields["type"] == "int" else []
    if broken:
        share = len(broken) / len(numbers)
        if fields.get("step", 1) in (None, 1) and (len(broken) >= 3 or share >= 0.1):
            notes.append(f"{_shown(name)}: float from now on, because of {_listed(broken)}")
            fields = fields | {"type": "float", "low": float(fields["low"]), "high": float(fields["high"])}
            fields.pop("step", None)
        else:
            numbers = [number for number in numbers if number == int(number)]
    if not numbers:
        return fields
    as_type = int if fields["type"] == "int" else float
    low, high = min(fields["low"], as_type(min(numbers))), max(fields["high"], as_type(max(numbers)))
    step = fields.get("step")
    if step and fields["type"] == "float":  # the grid stays where it is
        low = fields["low"] - math.ceil((fields["low"] - low) / step - 1e-9) * step
    if (low, high) != (fields["low"], fields["high"]) and not fields.get("log") and not step:
        log, evidence = _log_evidence([*numbers, fields["low"], fields["high"]])
        if log:  # the range was too narrow to tell
            notes.append(f"{_shown(name)}: log scale from now on ({evidence})")
            fields["log"] = True
    return fields | {"low": low, "high": high}


def _new_choices(values: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for value in sorted(values, key=_choice_order):
        if _choice(found, value) is None:
            found.append(value)
    return found


# Conditions


def _find_conditions(
    names: Iterable[str], space: dict[str, dict[str, Any]], columns: Mapping[str, list[Any]], notes: list[str]
) -> None:
    """Tell which of these are there under certain values of another parameter only, if that is so without exception.

    Sets of runs are the bits of a number each, for there may be hundreds of parameters to compare with each other.
    """
    parents = {
        name: _runs_by_choice(space[name], columns[name])
        for name in columns
        if name in space and space[name]["type"] == "categorical"
    }
    for name in names:
        there = _runs([value is not ABSENT for value in columns[name]])
        missing = len(columns[name]) - there.bit_count()
        if min(there.bit_count(), missing) < 2:
            continue
        for parent, runs_by_choice in parents.items():
            active = [choice for choice, runs in runs_by_choice.items() if runs & there]
            is_exact = all(not runs_by_choice[choice] & ~there for choice in active)
            if parent == name or not is_exact or None in active or not set(runs_by_choice) - {None, *active}:
                continue
            values = [space[parent]["choices"][choice] for choice in sorted(c for c in active if c is not None)]
            space[name]["when"] = {parent: values}
            notes.append(f"{_shown(name)}: only where {_shown(parent)} is {_listed(values)}")
            break


def _runs_by_choice(fields: Fields, column: Sequence[Any]) -> dict[int | None, int]:
    """The runs in which a parameter is each of its choices, by index; under None those in which it is none."""
    known: dict[Any, int | None] = {}
    for value in column:
        if (type(value), value) not in known:
            known[type(value), value] = None if value is ABSENT else _choice(fields["choices"], value)
    indices = [known[type(value), value] for value in column]
    return {choice: _runs([index == choice for index in indices]) for choice in set(indices)}


def _runs(members: Iterable[bool]) -> int:
    return int("0" + "".join("01"[is_member] for is_member in members), 2)


def _loosen_condition(
    name: str, space: dict[str, dict[str, Any]], columns: Mapping[str, list[Any]], notes: list[str]
) -> None:
    """Let a known condition hold for runs that have the parameter elsewhere."""
    fields = space[name]
    ((parent, values),) = (fields.get("when") or {None: []}).items()
    if parent is None or parent not in space or parent not in columns or space[parent]["type"] != "categorical":
        return
    there = _runs([value is not ABSENT for value in columns[name]])
    choices, runs_by_choice = space[parent]["choices"], _runs_by_choice(space[parent], columns[parent])
    seen = sorted(choice for choice, runs in runs_by_choice.items() if choice is not None and runs & there)
    more = [choices[choice] for choice in seen if _choice(list(values), choices[choice]) is None]
    if more:
        fields["when"] = {parent: [*values, *more]}
        notes.append(f"{_shown(name)}: also where {_shown(parent)} is {_listed(more)}")


# A run's configuration


def params_in(space: Mapping[str, Fields], raw: Mapping[str, Any]) -> dict[str, Any]:
    """The active parameters of a run as a configuration of the space; those that the space lacks are left out.

    raw: by name, `ABSENT` or missing where the run does not have it.
    Raises ValueError, `a value outside of the space: ...`, which says which parameter does not, and why.
    """
    params: dict[str, Any] = {}
    for name, fields in space.items():
        value = repair(raw.get(name, ABSENT))
        if value is ABSENT or (value is None and fields["type"] != "categorical"):
            continue
        try:
            params[name] = _value_in(name, fields, value)
        except ValueError as error:
            raise ValueError(f"a value outside of the space: {error}") from error
    return {name: value for name, value in params.items() if _is_active(space[name], params)}


def _value_in(name: str, fields: Fields, value: Any) -> Any:
    if fields["type"] == "categorical":
        index = _choice(fields["choices"], value)
        if index is None:
            many = f"; with it there would be more than {MAX_CHOICES}" if len(fields["choices"]) >= MAX_CHOICES else ""
            raise ValueError(f"{_shown(name)} = {_shown(value)} is none of {_listed(fields['choices'])}{many}")
        return fields["choices"][index]
    if not _is_number(value):
        said, elsewhere = f"{_shown(name)} = {_shown(value)}", f"it is {fields['type']} in the other runs"
        if _is_nonfinite(value):
            raise ValueError(f"{said} is not finite; {elsewhere}")
        raise ValueError(f"{said} is no number; {elsewhere}. {_hint(name, value)}")
    if fields["type"] == "int" and value != int(value):
        raise ValueError(f"{_shown(name)} = {_shown(value)} is no integer, as it is in the other runs")
    if fields.get("log") and value <= 0:
        raise ValueError(f"{_shown(name)} = {_shown(value)} has no place on a log scale")
    if not fields["low"] <= value <= fields["high"]:
        raise ValueError(f"{_shown(name)} = {_shown(value)} is outside [{fields['low']:g}, {fields['high']:g}]")
    return int(value) if fields["type"] == "int" else float(value)


def _is_active(fields: Fields, params: Mapping[str, Any]) -> bool:
    when: Mapping[str, Any] = fields.get("when") or {}
    for parent, values in when.items():
        allowed = list(values) if isinstance(values, list | tuple) else [values]
        if parent not in params or _choice(allowed, params[parent]) is None:
            return False
    return True


def _choice(choices: Sequence[Any], value: Any) -> int | None:
    """The index of the choice that a repaired value is: the same one, or text that says so, or 0 and 1 for a truth."""
    for index, choice in enumerate(choices):
        if _is_same(choice, value):
            return index
    for index, choice in enumerate(choices):
        if isinstance(choice, str) and _is_same(repair(choice), value):
            return index
    return next((index for index, choice in enumerate(choices) if choice == value), None)


def _is_same(one: Any, other: Any) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


# Metrics


def _set(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


_LOWER_IS_BETTER = _set(
    "loss losses error errors err rmse mse mae mape smape rmsle msle perplexity ppl wer cer ter nll logloss",
    "crossentropy entropy ece brier regret divergence kl distance deviance fid bpc bpb hinge mad eer hamming",
)
_HIGHER_IS_BETTER = _set(
    "acc accuracy auc auroc rocauc auprc ap map f1 fbeta fscore f1score score r2 iou miou dice precision recall",
    "sensitivity specificity bleu rouge meteor chrf reward rewards return ndcg mrr kappa mcc psnr ssim jaccard",
    "likelihood elbo correlation pearson spearman pearsonr spearmanr winrate hit hits success em",
)
_TECHNICAL = _set(
    "epoch epochs step steps iter iteration iterations lr time seconds secs duration runtime timestamp memory mem gpu",
    "cpu throughput fps samples count system grad gradient norm momentum elapsed eta batch batches trial version hp",
)
_TRAINING = _set("train training fit")
_STAGES = (_set("val valid validation validate dev cv"), _set("eval evaluation evaluate"), _set("test testing holdout"))


def guess_direction(metric: str) -> str | None:
    """`minimize` or `maximize` by the metric's name; None where the name does not tell."""
    signs = [(-1 if word in _LOWER_IS_BETTER else 1) for word in _words(metric) if _tells(word)]
    if not signs or (signs[-1] > 0 and -1 in signs and "brier" not in _words(metric)):
        return None  # a "loss_score" may be either
    sign = -1 if "brier" in _words(metric) else signs[-1]
    if {"neg", "negative"} & set(_words(metric)):
        sign = -sign
    return "maximize" if sign > 0 else "minimize"


def choose_metric(counts: Mapping[str, int]) -> str | None:
    """The metric that runs were most likely judged by; None where several are as likely.

    counts: in how many finished runs each metric was logged.
    Measured on validation data before evaluation before test data before training; in at least 80% as many runs as
    the most frequent one; a loss before other metrics.
    """
    candidates = {name: count for name, count in counts.items() if count > 0 and not is_technical(name)}
    frequent = [name for name, count in candidates.items() if count >= 0.8 * max(candidates.values())]
    telling = [name for name in frequent if guess_direction(name) is not None] or frequent
    if not telling:
        return None
    best = min(_stage(name) for name in telling)
    chosen = [name for name in telling if _stage(name) == best]
    losses = [name for name in chosen if _words(name)[-1:] == ["loss"] or "loss" in _words(name)[:-1]]
    plain = [name for name in losses if len(_words(name)) == min(len(_words(other)) for other in losses)]
    for found in (chosen, losses, plain):
        if len(found) == 1:
            return found[0]
    return None


def is_technical(metric: str) -> bool:
    """Whether the name is that of a counter, a clock or a meter rather than of a quality."""
    words = _words(metric)
    return (
        metric.startswith("system/")
        or ("learning" in words and "rate" in words)
        or (bool(_TECHNICAL & set(words)) and not any(_tells(word) for word in words))
    )


def _stage(metric: str) -> int:
    """On which data it was measured: the lower, the better a choice."""
    words = set(_words(metric))
    if words & _TRAINING:
        return len(_STAGES) + 1
    return next((index for index, names in enumerate(_STAGES) if words & names), len(_STAGES))


@lru_cache(maxsize=4_096)
def _words(metric: str) -> list[str]:
    """The words of a name such as `val/MulticlassAccuracy@5`, in lower case."""
    words: list[str] = []
    for part in re.split(r"[^0-9A-Za-z]+", metric):
        if part and _tells(part.lower()):
            words.append(part.lower())
        else:
            pieces = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+\d*|\d+", part)
            words += [piece.lower() for piece in pieces]
    return [word if _tells(word) else word.rstrip("0123456789") or word for word in words]


def _tells(word: str) -> bool:
    return word in _LOWER_IS_BETTER or word in _HIGHER_IS_BETTER


# Words for notes and errors


def _distinct(values: Iterable[Any]) -> list[Any]:
    """Each value once, in the order of appearance; True is not 1."""
    return list({(isinstance(value, bool), value): value for value in values}.values())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_nonfinite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _shown(value: Any) -> str:
    """A name or a value in one short line."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    text = "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _listed(values: Sequence[Any]) -> str:
    shown = [_shown(value) for value in values[:4]]
    return ", ".join(shown) + (", …" if len(values) > 4 else "")
