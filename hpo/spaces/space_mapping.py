"""How a past search space relates to the present one, and what past configurations are in its words.

Each parameter has a *form*: `lr` is itself, `log10_lr` its logarithm, `one_minus_momentum` what is left to one. What a
form stands for is its *raw* value; two parameters are compared, and values translated, by way of it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from hpo.errors import SpaceError
from hpo.spaces.space import Condition, SearchSpace, describe
from storage.errors import did_you_mean

ChangeKind = Literal[
    "same", "renamed", "widened", "cut", "rescaled", "retyped", "conditioned", "added", "removed"
]  # conditioned: it matters under another condition than before

SYNONYMS = {  # spelled without separators and in lower case
    "learning_rate": "lr learningrate eta baselr initlr initiallr learningrateinit",
    "weight_decay": "wd weightdecay l2 l2reg l2regularization weightdecayrate",
    "batch_size": "bs batchsize trainbatchsize minibatchsize perdevicetrainbatchsize",
    "dropout": "dropout pdrop droprate dropoutrate dropoutprob dropoutp pdropout",
    "layers": "nlayers numlayers depth layers nlayer numhiddenlayers nhiddenlayers numberoflayers",
    "width": "width hidden hiddensize hiddendim units nunits numunits nhidden hiddenunits hiddenwidth",
    "momentum": "momentum sgdmomentum",
    "beta1": "beta1 adambeta1 b1",
    "beta2": "beta2 adambeta2 b2",
    "epsilon": "eps epsilon adameps adamepsilon",
    "epochs": "epochs maxepochs nepochs numepochs numtrainepochs",
    "warmup": "warmup warmupsteps nwarmup numwarmupsteps",
    "warmup_ratio": "warmupratio warmupfraction warmupproportion",
    "optimizer": "optimizer opt optim optimizername optimizertype",
    "scheduler": "scheduler lrscheduler lrschedule lrschedulertype",
    "activation": "activation act activationfn activationfunction nonlinearity",
    "gradient_clip": "gradclip clipgrad gradientclip gradientclipval gradientclipping maxgradnorm clipnorm",
    "heads": "heads nheads nhead numheads numattentionheads",
    "embedding": "embeddingdim embeddingsize embdim embedsize embeddim",
    "trees": "nestimators ntrees numtrees nrounds numboostround",
}
MIN_OVERLAP = 0.05  # of two ranges, for parameters whose names only resemble each other; heuristic
MIN_OVERLAP_OF_A_GUESS = 0.8  # when only the ranges say that one is the other's logarithm; heuristic
POINT_IN_RANGE = 0.1  # what a range is worth that shares one point with the other; heuristic
TOLERANCE = 1e-6  # relative, where values went through logarithms


@dataclass(frozen=True, kw_only=True)
class Change:
    """What became of one parameter; there may be several changes to one."""

    kind: ChangeKind
    past: str | None  # its name in the past space; None: it was not there
    present: str | None  # its name in the present space; None: it is not there any more
    sentence: str


@dataclass(frozen=True, kw_only=True)
class SpaceMapping:
    """How a past space relates to the present one. Made by `relate`."""

    changes: tuple[Change, ...]  # in the order of the present space, what was removed last
    similarity: float  # in [0, 1]; 1: at most names differ; heuristic
    _past: SearchSpace = field(repr=False)
    _present: SearchSpace = field(repr=False)
    _pairs: Mapping[str, _Pair] = field(repr=False)  # by present name
    _constants: Mapping[str, Any] = field(repr=False)  # by the names of parameters that were added

    def translate(self, params: Mapping[str, Any]) -> dict[str, Any] | None:
        """A past configuration in the words of the present space; None where it cannot be said there.

        A number outside the present range is kept as it is, unless a log scale does not have it. What was added is
        missing unless history implies its value, and what does not matter in the present space is left out.
        """
        translated: dict[str, Any] = {}
        for name in self._present.distributions:
            if not self._may_matter(name, translated):
                continue
            pair = self._pairs.get(name)
            if pair is None:
                if name in self._constants:
                    translated[name] = self._constants[name]
            elif pair.past in params:
                value = pair.convert(params[pair.past])
                if value is _UNSAYABLE:
                    return None
                translated[name] = value
        return None if self._present.distributions and not translated else translated

    def _may_matter(self, name: str, translated: Mapping[str, Any]) -> bool:
        """Whether the parameter is active, or might be because its parent's past value is not known."""
        condition = self._present.conditions.get(name)
        if condition is not None and condition.parent not in translated and condition.parent not in self._pairs:
            return True
        return self._present.is_active(name, translated)


def relate(
    past: SearchSpace,
    present: SearchSpace,
    *,
    renames: Mapping[str, str] | None = None,
    constants: Mapping[str, Any] | None = None,
) -> SpaceMapping:
    """Relate two spaces: which parameter is which, and how it changed.

    renames: present names by past names, where it is known. Parameters of the same name are the same otherwise; the
    others are related where their names are known to mean the same, their types fit and their ranges overlap.
    constants: what the past did not search over but had fixed, by present name.
    Raises SpaceError for renames that name what is not there or cannot be.
    """
    pairs = {pair.present: pair for pair in _pairs(past, present, renames or {})}
    implied = dict(_implied_constants(past, present, pairs, constants or {}))
    known = {pair.past for pair in pairs.values()}
    changes: list[Change] = []
    scores: list[float] = []
    for name, distribution in present.distributions.items():
        pair = pairs.get(name)
        if pair is None:
            changes.append(_added(name, distribution, implied))
            scores.append(0.0)
        else:
            found = list(_changes(pair, past, present, pairs))
            changes += found or [_same(pair)]
            scores.append(_score(pair, found))
    for name, distribution in past.distributions.items():
        if name not in known:
            sentence = f"{name}: no longer searched over; it was {describe(distribution)}"
            changes.append(Change(kind="removed", past=name, present=None, sentence=sentence))
            scores.append(0.0)
    return SpaceMapping(
        changes=tuple(changes),
        similarity=math.fsum(scores) / len(scores) if scores else 1.0,
        _past=past,
        _present=present,
        _pairs=pairs,
        _constants=implied,
    )


def meanings(space: SearchSpace) -> frozenset[str]:
    """What the names in a space mean: spaces that share few of them are not worth relating."""
    return frozenset(_concept_of_last_part(name) for name in space.distributions)


# Forms


@dataclass(frozen=True, kw_only=True)
class _Form:
    """How a parameter stands for its raw value."""

    raw: Callable[[float], float]
    of_raw: Callable[[float], float]  # may raise ValueError or OverflowError, as `raw`
    raw_text: str  # of `{}`
    of_raw_text: str


_PLAIN = _Form(raw=lambda x: x, of_raw=lambda x: x, raw_text="{}", of_raw_text="{}")
_ONE_MINUS = _Form(raw=lambda x: 1 - x, of_raw=lambda x: 1 - x, raw_text="1 - {}", of_raw_text="1 - {}")
_LOG10 = _Form(raw=lambda x: 10.0**x, of_raw=math.log10, raw_text="10 ** {}", of_raw_text="log10({})")
_LOG2 = _Form(raw=lambda x: 2.0**x, of_raw=math.log2, raw_text="2 ** {}", of_raw_text="log2({})")
_LN = _Form(raw=math.exp, of_raw=math.log, raw_text="exp({})", of_raw_text="ln({})")
_LOGARITHMS = (_LOG10, _LOG2, _LN)
_FORMS_BY_WORD: dict[str, tuple[_Form, ...]] = {
    "one_minus": (_ONE_MINUS,),
    "1_minus": (_ONE_MINUS,),
    "log10": (_LOG10,),
    "log_10": (_LOG10,),
    "log2": (_LOG2,),
    "log_2": (_LOG2,),
    "ln": (_LN,),
    "log": _LOGARITHMS,  # the ranges tell which
}
_WITH_FORM = re.compile(rf"(?:({'|'.join(_FORMS_BY_WORD)})_)?(.+?)(?:_(log10|log_10|log2|log_2|ln|log))?")


def _words(name: str) -> str:
    """A name in lower case with one underscore between words."""
    separated = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[\W_]+", "_", separated).strip("_").lower()


def _read(name: str) -> tuple[str, tuple[_Form, ...]]:
    """What a name says: of what, spelled without separators, and in which forms it may be."""
    words = _words(name)
    found = _WITH_FORM.fullmatch(words)
    if found is None:
        return words, (_PLAIN,)
    before, base, after = found.groups()
    forms = _FORMS_BY_WORD[before or after] if before or after else (_PLAIN,)
    return base.replace("_", ""), forms


_CONCEPTS = {spelling: concept for concept, spellings in SYNONYMS.items() for spelling in spellings.split()}


def _concept(name: str) -> str:
    base, _ = _read(name)
    return _CONCEPTS.get(base, base)


def _concept_of_last_part(name: str) -> str:
    return _concept(re.split(r"[./:]", name)[-1])


# Which parameter is which


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """A past parameter and the present one that it is."""

    past: str
    present: str
    past_distribution: BaseDistribution
    present_distribution: BaseDistribution
    past_form: _Form
    present_form: _Form
    overlap: float  # of the ranges, in [0, 1]
    convert: Callable[[Any], Any]  # a past value to the present one, or _UNSAYABLE

    @property
    def is_plain(self) -> bool:
        """Whether a value means the same in both."""
        return self.past_form is self.present_form


def _pairs(past: SearchSpace, present: SearchSpace, renames: Mapping[str, str]) -> Iterator[_Pair]:
    left, right = dict(past.distributions), dict(present.distributions)
    for pair in _renamed(left, right, renames):
        del left[pair.past], right[pair.present]
        yield pair
    for key, least in (
        (lambda name: name, 0.0),
        (lambda name: _read(name)[0], MIN_OVERLAP),
        (_concept, MIN_OVERLAP),
        (_concept_of_last_part, MIN_OVERLAP),
    ):
        for past_name, present_name in list(_unambiguous(left, right, key)):
            found = _pair(past_name, left[past_name], present_name, right[present_name])
            if found is not None and found.overlap >= least:
                del left[past_name], right[present_name]
                yield found


def _unambiguous(left: Iterable[str], right: Iterable[str], key: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    """Names on both sides with the same key, which nothing else has."""
    past = {name: key(name) for name in left}
    present = {name: key(name) for name in right}
    past_counts, present_counts = Counter(past.values()), Counter(present.values())
    by_key = {found: name for name, found in past.items()}
    for name, found in present.items():
        if past_counts[found] == present_counts[found] == 1:
            yield by_key[found], name


def _renamed(
    left: Mapping[str, BaseDistribution], right: Mapping[str, BaseDistribution], renames: Mapping[str, str]
) -> list[_Pair]:
    pairs = []
    for past_name, present_name in renames.items():
        for name, names, which in ((past_name, left, "past"), (present_name, right, "present")):
            if name not in names:
                raise SpaceError(f"renames: there is no {which} parameter {name!r}.{did_you_mean(name, names)}")
        pair = _pair(past_name, left[past_name], present_name, right[present_name])
        if pair is None:
            raise SpaceError(
                f"renames: {past_name} ({describe(left[past_name])}) cannot be "
                f"{present_name} ({describe(right[present_name])}): their values have nothing in common"
            )
        pairs.append(pair)
    twice = [name for name, count in Counter(renames.values()).items() if count > 1]
    if twice:
        raise SpaceError(f"renames: {twice[0]} is named for several past parameters; name one")
    return pairs


def _pair(
    past: str, past_distribution: BaseDistribution, present: str, present_distribution: BaseDistribution
) -> _Pair | None:
    """The pair in the forms that its names say, or else its ranges; None where no value of one can be one of the other.

    Of several possible forms those count in which the ranges overlap most.
    """

    def best(forms: Iterable[tuple[_Form, _Form]]) -> _Pair | None:
        found = None
        for past_form, present_form in forms:
            convert = _converter(past_distribution, present_distribution, past_form, present_form)
            overlap = _overlap(past_distribution, present_distribution, past_form, present_form)
            if convert is not None and overlap is not None and (found is None or overlap > found.overlap):
                found = _Pair(
                    past=past,
                    present=present,
                    past_distribution=past_distribution,
                    present_distribution=present_distribution,
                    past_form=past_form,
                    present_form=present_form,
                    overlap=overlap,
                    convert=convert,
                )
        return found

    said = best(_forms_said(past, present))
    if said is not None and said.overlap == 0:
        guessed = best(_FORMS_GUESSED)
        if guessed is not None and guessed.overlap >= MIN_OVERLAP_OF_A_GUESS:
            return guessed
    return said


def _forms_said(past: str, present: str) -> list[tuple[_Form, _Form]]:
    """The forms that the names allow: they matter where the names are otherwise of the same thing."""
    past_forms, present_forms = _read(past)[1], _read(present)[1]
    if past_forms == present_forms or _concept_of_last_part(past) != _concept_of_last_part(present):
        return [(_PLAIN, _PLAIN)]
    return [(past_form, present_form) for past_form in past_forms for present_form in present_forms]


_FORMS_GUESSED = [
    (_PLAIN, _PLAIN),
    *((logarithm, _PLAIN) for logarithm in _LOGARITHMS),
    *((_PLAIN, logarithm) for logarithm in _LOGARITHMS),
]


# Ranges


def _range(distribution: BaseDistribution) -> tuple[float, float] | None:
    """The least and the greatest number; None where it is not of numbers."""
    if isinstance(distribution, FloatDistribution | IntDistribution):
        return distribution.low, distribution.high
    numbers = _choice_numbers(distribution)
    return None if numbers is None else (min(numbers), max(numbers))


def _choice_numbers(distribution: BaseDistribution) -> list[float] | None:
    assert isinstance(distribution, CategoricalDistribution)
    numbers = [_number(choice) for choice in distribution.choices]
    return None if None in numbers else [number for number in numbers if number is not None]


def _number(value: Any) -> float | None:
    """The finite number that a value is or reads as; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _raw_range(distribution: BaseDistribution, form: _Form) -> tuple[float, float] | None:
    found = _range(distribution)
    if found is None:
        return None
    try:
        ends = sorted(map(form.raw, found))
    except OverflowError:
        return None
    return ends[0], ends[1]


def _overlap(past: BaseDistribution, present: BaseDistribution, past_form: _Form, present_form: _Form) -> float | None:
    """How much of what either covers both cover, in [0, 1]; None where they cannot be compared."""
    if isinstance(past, CategoricalDistribution) and isinstance(present, CategoricalDistribution):
        common = sum(choice is not _UNSAYABLE for choice in _matched_choices(past, present))
        return common / (len(past.choices) + len(present.choices) - common)
    first, second = _raw_range(past, past_form), _raw_range(present, present_form)
    if first is None or second is None:
        return None
    if isinstance(past, IntDistribution) and isinstance(present, IntDistribution) and past_form is present_form:
        first, second = (first[0], first[1] + 1), (second[0], second[1] + 1)  # 1 … 2 has two values, not a length of 1
    shared = _shared(first, second)
    if min(first[0], second[0]) > 0:
        shared = max(shared, _shared(_logarithms(first), _logarithms(second)))
    return shared


def _logarithms(ends: tuple[float, float]) -> tuple[float, float]:
    return math.log(ends[0]), math.log(ends[1])


def _shared(first: tuple[float, float], second: tuple[float, float]) -> float:
    inner = min(first[1], second[1]) - max(first[0], second[0])
    outer = max(first[1], second[1]) - min(first[0], second[0])
    if outer == 0:
        return 1.0
    if inner < 0:
        return 0.0
    return max(inner / outer, POINT_IN_RANGE if 0 in (first[1] - first[0], second[1] - second[0]) else 0.0)


# Values

_UNSAYABLE: Any = object()


def _converter(
    past: BaseDistribution, present: BaseDistribution, past_form: _Form, present_form: _Form
) -> Callable[[Any], Any] | None:
    """How a past value becomes a present one; None where none can."""
    if isinstance(past, CategoricalDistribution) and isinstance(present, CategoricalDistribution):
        matched = _matched_choices(past, present)
        if all(choice is _UNSAYABLE for choice in matched):
            return None
        return lambda value: next(
            (now for before, now in zip(past.choices, matched, strict=True) if _is_same(before, value)), _UNSAYABLE
        )
    if _range(past) is None or _range(present) is None:
        return None
    is_plain = past_form is present_form
    if is_plain and type(past) is type(present):
        return lambda value: value if _is_on_scale(_number(value), present) else _UNSAYABLE

    def convert(value: Any) -> Any:
        number = _number(value)
        if number is None:
            return _UNSAYABLE
        try:
            return _fitted(present_form.of_raw(past_form.raw(number)), present, is_plain=is_plain)
        except (ValueError, OverflowError):  # the logarithm of a negative number
            return _UNSAYABLE

    return convert


def _fitted(number: float, present: BaseDistribution, *, is_plain: bool) -> Any:
    """The number as a value of the present type."""
    if isinstance(present, CategoricalDistribution):
        for choice in present.choices:
            other = _number(choice)
            if other is not None and math.isclose(other, number, rel_tol=TOLERANCE):
                return choice
        return _UNSAYABLE
    if isinstance(present, FloatDistribution):
        return number if _is_on_scale(number, present) else _UNSAYABLE
    nearest = round(number)
    is_near = is_plain or math.isclose(nearest, number, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return nearest if is_near and _is_on_scale(nearest, present) else _UNSAYABLE


def _is_on_scale(number: float | None, distribution: BaseDistribution) -> bool:
    """Whether the scale has such a number, be it outside of the range: a log scale has no zero."""
    return number is not None and (number > 0 or not getattr(distribution, "log", False))


def _matched_choices(past: CategoricalDistribution, present: CategoricalDistribution) -> list[Any]:
    """Per past choice the present one that is the same, or is spelled so; _UNSAYABLE where there is none."""
    past_texts, present_texts = Counter(map(_spelled, past.choices)), Counter(map(_spelled, present.choices))
    by_text = {_spelled(choice): choice for choice in present.choices}

    def match(choice: Any) -> Any:
        for other in present.choices:
            if _is_same(choice, other):
                return other
        text = _spelled(choice)
        return by_text[text] if past_texts[text] == present_texts[text] == 1 else _UNSAYABLE

    return [match(choice) for choice in past.choices]


def _is_same(one: Any, other: Any) -> bool:
    return one is other or (isinstance(one, bool) == isinstance(other, bool) and bool(one == other))


def _spelled(choice: Any) -> str:
    number = _number(choice)
    return str(choice).strip().lower() if number is None else repr(number)


# What changed


def _changes(pair: _Pair, past: SearchSpace, present: SearchSpace, pairs: Mapping[str, _Pair]) -> Iterator[Change]:
    def change(kind: ChangeKind, sentence: str) -> Change:
        return Change(kind=kind, past=pair.past, present=pair.present, sentence=sentence)

    name, before, now = pair.present, pair.past_distribution, pair.present_distribution
    if pair.past != pair.present:
        yield change("renamed", f"{pair.past} is now called {pair.present}")
    if _type(before) != _type(now):
        yield change("retyped", f"{name}: was {_type(before)}, is now {_type(now)}")
    if not pair.is_plain:
        formula = pair.present_form.of_raw_text.format(pair.past_form.raw_text.format(f"past {pair.past}"))
        yield change("rescaled", f"{name} = {formula}")
    elif _scale(before) != _scale(now) and _type(before) == _type(now):
        yield change("rescaled", f"{name}: was {_scale(before)}, is now {_scale(now)}")
    was_is = f"was {describe(before)}, is now {describe(now)}"
    wider, narrower = _moved(pair)
    if wider:
        yield change("widened", f"{name}: wider {wider}; {was_is}")
    if narrower:
        yield change("cut", f"{name}: cut {narrower}; {was_is}")
    condition, former = present.conditions.get(name), _translated_condition(past.conditions.get(pair.past), pairs)
    if not _is_same_condition(former, condition):
        yield change("conditioned", f"{name}: mattered {_when(former)}, matters now {_when(condition)}")


def _same(pair: _Pair) -> Change:
    sentence = f"{pair.present}: {describe(pair.present_distribution)}, as before"
    return Change(kind="same", past=pair.past, present=pair.present, sentence=sentence)


def _added(name: str, distribution: BaseDistribution, implied: Mapping[str, Any]) -> Change:
    known = f"in the past it was {implied[name]}" if name in implied else "what it was in the past is not known"
    sentence = f"{name}: new, {describe(distribution)}; {known}"
    return Change(kind="added", past=None, present=name, sentence=sentence)


def _score(pair: _Pair, changes: Iterable[Change]) -> float:
    """What a pair contributes to the similarity: all where at most the name differs, at least a third. Heuristic."""
    kinds = {change.kind for change in changes} - {"renamed"}
    if not kinds:
        return 1.0
    others = len(kinds & {"rescaled", "retyped", "conditioned"})
    return (0.5 + 0.5 * pair.overlap) * 0.9**others


def _type(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return "a choice"
    return "a whole number" if isinstance(distribution, IntDistribution) else "a number"


def _scale(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return ""
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.log:
        return "on a log scale"
    is_every = distribution.step is None or (isinstance(distribution, IntDistribution) and distribution.step == 1)
    return "on a linear scale" if is_every else f"in steps of {distribution.step:g}"


def _moved(pair: _Pair) -> tuple[str, str]:
    """In which way the range became wider and in which narrower; empty where it did not."""
    before, now = pair.past_distribution, pair.present_distribution
    if isinstance(before, CategoricalDistribution) and isinstance(now, CategoricalDistribution):
        kept = _matched_choices(before, now)
        new = [choice for choice in now.choices if not any(_is_same(choice, other) for other in kept)]
        gone = [choice for choice, match in zip(before.choices, kept, strict=True) if match is _UNSAYABLE]
        return _listed("by", new), _listed("by", gone)
    past, present = _raw_range(before, pair.past_form), _raw_range(now, pair.present_form)
    assert past is not None
    assert present is not None
    wider: list[str] = []
    narrower: list[str] = []
    for end, shift in (("below", past[0] - present[0]), ("above", present[1] - past[1])):
        scale = max(map(abs, (*past, *present)))
        if abs(shift) > (0.0 if pair.is_plain else TOLERANCE * scale):
            (wider if shift > 0 else narrower).append(end)
    return " and ".join(wider), " and ".join(narrower)


def _listed(word: str, choices: list[Any]) -> str:
    return f"{word} {', '.join(map(str, choices))}" if choices else ""


# Conditions


def _translated_condition(condition: Condition | None, pairs: Mapping[str, _Pair]) -> Condition | None:
    """A past condition in present words, as far as they go."""
    if condition is None:
        return None
    pair = next((pair for pair in pairs.values() if pair.past == condition.parent), None)
    if pair is None:
        return condition
    values = (pair.convert(value) for value in condition.values)
    return Condition(parent=pair.present, values=tuple(value for value in values if value is not _UNSAYABLE))


def _is_same_condition(one: Condition | None, other: Condition | None) -> bool:
    if one is None or other is None:
        return one is other
    return (
        one.parent == other.parent
        and all(any(_is_same(value, match) for match in other.values) for value in one.values)
        and all(any(_is_same(value, match) for match in one.values) for value in other.values)
    )


def _when(condition: Condition | None) -> str:
    return "always" if condition is None else f"when {condition.parent} is {' or '.join(map(str, condition.values))}"


def _implied_constants(
    past: SearchSpace, present: SearchSpace, pairs: Mapping[str, _Pair], constants: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    """What parameters that were added must have been: as given, or because what depends on them always mattered."""
    for name, distribution in present.distributions.items():
        if name in pairs:
            continue
        if name in constants:
            value = _as_value(constants[name], distribution)
            if value is not _UNSAYABLE:
                yield name, value
            continue
        allowed = [
            condition.values
            for child, condition in present.conditions.items()
            if condition.parent == name and child in pairs and pairs[child].past not in past.conditions
        ]
        if allowed:
            common = [value for value in allowed[0] if all(value in values for values in allowed)]
            if len(common) == 1:
                yield name, common[0]


def _as_value(value: Any, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return next((choice for choice in distribution.choices if _is_same(choice, value)), _UNSAYABLE)
    number = _number(value)
    return _UNSAYABLE if number is None else _fitted(number, distribution, is_plain=True)
