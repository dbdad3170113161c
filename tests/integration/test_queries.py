"""Does a question find exactly the trials that a plain reading of it would, in order, counted and summed up?"""

import math
import random
import re
from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from storage import query_plan, trial_pages
from storage.database import insert_many
from storage.distributions import ParameterSet, ParameterSets
from storage.families import note_change
from storage.history import ids_of_studies
from storage.models import intermediate_values, studies, trial_attributes, trials
from storage.queries import count_trials, query_trials, select_trials, totals
from storage.query_language import (
    STATES,
    And,
    Between,
    Comparison,
    Field,
    IsNull,
    Like,
    Membership,
    Not,
    Or,
    QueryError,
    parse,
)
from storage.studies import create_study
from storage.trial_rows import insert_trial, set_attribute

TEXTS = ["digits", "Digits_mlp", "50%", "a_b", "it's", "größe", "GRÖSSE", "[x]*?", "\\", "", "10", "9", "<b>\n"]
KINDS = {
    "lr": [FloatDistribution(1e-5, 1.0, log=True), FloatDistribution(0.0, 1.0), CategoricalDistribution([0.1, "auto"])],
    "layers": [IntDistribution(1, 8), CategoricalDistribution(["2", "4", "deep"])],
    "optimizer": [CategoricalDistribution(["sgd", "Adam", "größe"]), CategoricalDistribution(["sgd", None, True, 3])],
    "a.b c`d": [CategoricalDistribution([False, True])],
}
VALUES = [-1.5, 0.0, 0.1, 0.25, 1.0, 3.0, math.inf, -math.inf]
WHOLE = [0, 1, 7, 2**53 + 1, -(2**63), 2**63 - 1]
TIMES = [
    datetime(2025, 12, 31, 23, 59, tzinfo=UTC),
    datetime(2026, 1, 1, tzinfo=UTC),
    datetime(2026, 3, 1, 12, tzinfo=UTC),
]
NOTES = ["vision", "Vision", 3, 3.5, "3", True, "true", None, [1], {"a": 1}]
NAMES_OF_COLUMNS = {"cost": "cost_seconds", "started": "started_at", "finished": "finished_at"}


def fill(store, *, size=240, seed=0):
    """A history of all kinds of trials; what each is, by name of field."""
    rng, sets, rows = random.Random(seed), ParameterSets(), []
    for position, source in enumerate(["hindsight", "optuna", "mlflow:team", "hindsight", "it's"]):
        direction = ("minimize", "maximize")[position % 2]
        task = rng.choice(TEXTS) + str(position) if position else None
        name = f"study {position} {rng.choice(TEXTS)}"
        study_id = create_study(
            store, name=name, directions=[direction], task=task, metric="val_loss" if task else None, source=source
        )
        reason = "scale break" if position == 2 else None
        with store.write() as connection:
            connection.execute(studies.update().where(studies.c.id == study_id).values(quarantine=reason))
        for number in range(size // 5):
            names = [name for name in KINDS if rng.random() < 0.7]
            drawn = ParameterSet(names=tuple(names), distributions=tuple(rng.choice(KINDS[name]) for name in names))
            params = {name: draw(rng, drawn.by_name[name]) for name in names}
            set_id = sets.id_of(store, drawn)
            state = rng.choice(list(TrialState))
            maybe = lambda values: rng.choice([*values, None])  # noqa: E731
            columns = {
                "seed": maybe(WHOLE), "epochs": maybe([1, 7, 10]), "cost_seconds": maybe([0.5, 60.0]),
                "worker": maybe(TEXTS), "error": maybe(TEXTS), "code_version": maybe(TEXTS), "hardware": maybe(TEXTS),
                "data_fingerprint": maybe(TEXTS), "checkpoint": maybe(TEXTS),
                "value": maybe(VALUES) if state in (TrialState.COMPLETE, TrialState.PRUNED) else None,
            }  # fmt: skip
            started, finished = maybe(TIMES), maybe(TIMES)
            attrs = {"note": rng.choice(NOTES)} if rng.random() < 0.5 else {}
            attrs |= {"tags": {"team": rng.choice(["vision", "text", "3"])}} if rng.random() < 0.5 else {}
            with store.write() as connection:
                trial_id = insert_trial(
                    connection,
                    study_id,
                    number,
                    state=state.value,
                    parameter_set_id=set_id,
                    configuration=drawn.encode(params) if names else None,
                    started_at=started and started.timestamp(),
                    finished_at=finished and finished.timestamp(),
                    **columns,
                )
                for key, value in attrs.items():
                    set_attribute(store, connection, trial_attributes, trial_id, kind="user", key=key, value=value)
                set_attribute(store, connection, trial_attributes, trial_id, kind="system", key="note", value="ours")
                if number % 7 == 0:
                    curve = [(trial_id, 1, 0.5), (trial_id, 2, None)]  # NaN, as it is kept
                    insert_many(connection, intermediate_values, ("trial_id", "step", "value"), curve)
            rows.append(
                {
                    "task": task, "study": name, "source": source, "metric": "val_loss" if task else None,
                    "direction": direction, "quarantine": reason, "family": None, "number": number,
                    "state": state.name.lower(), "started_at": started, "finished_at": finished, "params": params,
                    "attrs": attrs, "curve": {1: 0.5, 2: math.nan} if number % 7 == 0 else {}, **columns,
                }
            )  # fmt: skip
    return rows


def draw(rng, distribution):
    if isinstance(distribution, CategoricalDistribution):
        return rng.choice(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return rng.randint(distribution.low, distribution.high)
    return rng.choice([0.1, 0.25, 1.0, rng.uniform(distribution.low, distribution.high)])


# A plain reading


def value_of(field, row):
    if field.room == "params":
        return row["params"].get(field.name)
    if field.room == "attrs":
        return row["attrs"].get(field.name)
    if field.room == "tags":
        return row["attrs"].get("tags", {}).get(field.name)
    return row[NAMES_OF_COLUMNS.get(field.name, field.name)]


def as_number(value):
    try:
        return None if isinstance(value, bool | list | dict) else float(value)
    except ValueError:
        return None


def compare(field, value, operator, other):
    if field.room != "column" and not (isinstance(value, str) and isinstance(other, str)):
        if isinstance(value, bool) or isinstance(other, bool):
            truth = {"true": True, "false": False, True: True, False: False}
            value, other = (truth.get(part) if isinstance(part, str | bool) else None for part in (value, other))
        else:
            value, other = as_number(value), as_number(other)
        if value is None or other is None:
            return operator == "!="
    return {
        "=": value == other, "!=": value != other,
        "<": operator == "<" and value < other, "<=": operator == "<=" and value <= other,
        ">": operator == ">" and value > other, ">=": operator == ">=" and value >= other,
    }[operator]  # fmt: skip


def is_like(value, pattern, ignore_case):
    if not isinstance(value, str):
        return False
    expression = re.sub(
        r"(?s)\\(.)|(.)|\\$",
        lambda found: (
            re.escape(found[1]) if found[1] else {"%": ".*", "_": "."}.get(found[2], re.escape(found[2] or "\\"))
        ),
        pattern,
    )
    flags = re.DOTALL | re.ASCII | (re.IGNORECASE if ignore_case else 0)
    return re.fullmatch(expression, value, flags) is not None


def meets(condition, row):
    match condition:
        case And(parts=parts):
            return all(meets(part, row) for part in parts)
        case Or(parts=parts):
            return any(meets(part, row) for part in parts)
        case Not(part=part):
            return not meets(part, row)
    value = value_of(condition.field, row)
    if isinstance(condition, IsNull):
        return (value is None) != condition.negated
    if value is None:
        return False
    match condition:
        case Comparison(field=field, operator=operator, value=other):
            return compare(field, value, operator, other)
        case Membership(field=field, values=values, negated=negated):
            return any(compare(field, value, "=", other) for other in values) != negated
        case Between(field=field, low=low, high=high, negated=negated):
            return (compare(field, value, ">=", low) and compare(field, value, "<=", high)) != negated
        case Like(pattern=pattern, ignore_case=ignore_case, negated=negated):
            return is_like(value, pattern, ignore_case) != negated
    raise AssertionError(condition)


# Any condition

columns = {
    **dict.fromkeys(["task", "study", "source", "worker", "error", "code_version", "hardware", "checkpoint"], TEXTS),
    "metric": ["val_loss"], "direction": ["minimize", "maximize"], "quarantine": ["scale break"],
    "family": ["value-1a2b3c4d"], "data_fingerprint": TEXTS,
    "value": [*VALUES, 0.2, 10**18], "cost": [0.5, 60, 100.0], "started": TIMES, "finished": TIMES,
    "number": [0, 3, 20.5, 1e30, -1e30, math.inf], "epochs": [1, 7, 6.5, 2**62], "state": list(STATES),
    "seed": [*WHOLE, 2.0**53, 0.5, 1e19, -math.inf],
}  # fmt: skip
anything = [0.1, 0.25, 1, 3, "3", "0.1", "sgd", "adam", "auto", "vision", "true", True, False, 2, "4", "größe", 10**18]
inside = [("params", "lr"), ("params", "layers"), ("params", "optimizer"), ("params", "a.b c`d"), ("params", "none"),
          ("attrs", "note"), ("attrs", "none"), ("tags", "team"), ("tags", "none")]  # fmt: skip
patterns = st.sampled_from(["%", "", "digits%", "D%", "%s", "a_b%", r"a\_b%", "50%", r"50\%%", "[x]*?%", "%[%", "\\",
                            "_%", "%ö%", "%Ö%", "s_d", "s%", "%\n", "study _ %"])  # fmt: skip


@st.composite
def atoms(draw):
    if draw(st.booleans()):
        room, name = draw(st.sampled_from(inside))
        values = anything
    else:
        room, name = "column", draw(st.sampled_from(sorted(columns)))
        values = columns[name]
    field, value, negated = Field(room=room, name=name), st.sampled_from(values), draw(st.booleans())
    kinds = ["comparison", "membership", "null"]
    kinds += ["order", "between"] if field.kind != "state" else []
    kinds += ["like", "like"] if field.kind in (None, "text") else []
    match draw(st.sampled_from(kinds)):
        case "comparison":
            return Comparison(field=field, operator=draw(st.sampled_from(["=", "!="])), value=draw(value))
        case "order":
            return Comparison(field=field, operator=draw(st.sampled_from(["<", "<=", ">", ">="])), value=draw(value))
        case "membership":
            return Membership(field=field, values=tuple(draw(st.lists(value, min_size=1, max_size=3))), negated=negated)
        case "between":
            return Between(field=field, low=draw(value), high=draw(value), negated=negated)
        case "like":
            return Like(field=field, pattern=draw(patterns), ignore_case=draw(st.booleans()), negated=negated)
        case _:
            return IsNull(field=field, negated=negated)


conditions = st.recursive(
    atoms(),
    lambda inner: (
        st.builds(Not, part=inner)
        | st.lists(inner, min_size=2, max_size=3).map(lambda parts: And(parts=tuple(parts)))
        | st.lists(inner, min_size=2, max_size=3).map(lambda parts: Or(parts=tuple(parts)))
    ),
    max_leaves=6,
)


def key(row):
    return (row["study"], row["number"])


def keys(found):
    return [(row.study, row.number) for row in found]


def test_any_condition_finds_what_a_plain_reading_finds(store):
    rows = fill(store)

    @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(conditions)
    def check(condition):
        expected = [key(row) for row in rows if meets(condition, row)]
        assert keys(query_trials(store, str(condition))) == expected
        assert count_trials(store, condition) == len(expected)

    check()


def test_any_order_is_the_plain_one(store):
    rows = fill(store)

    def rank(field, value):
        if field.room == "column":
            return value
        if isinstance(value, bool):
            return (2, value)
        return (1, value) if isinstance(value, str) else (0, value)

    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        conditions,
        st.sampled_from([Field(room=room, name=name) for room, name in inside if room == "params"])
        | st.sampled_from([Field(room="column", name=name) for name in columns if name != "state"]),
        st.booleans(),
        st.none() | st.integers(0, 60),
    )
    def check(condition, field, descending, limit):
        found = [row for row in rows if meets(condition, row)]
        having = [row for row in found if value_of(field, row) is not None]
        having.sort(key=lambda row: rank(field, value_of(field, row)), reverse=descending)
        if descending:  # equal ones in the order of recording all the same
            having.sort(key=lambda row: rank(field, value_of(field, row)))
            groups = {}
            for row in having:
                groups.setdefault(rank(field, value_of(field, row)), []).append(row)
            having = [row for group in sorted(groups, reverse=True) for row in groups[group]]
        expected = having + [row for row in found if value_of(field, row) is None]
        asked = query_trials(store, condition, order_by=str(field), descending=descending, limit=limit)
        assert keys(asked) == [key(row) for row in expected][:limit]

    check()


@pytest.mark.parametrize("where", ["", "params.layers > 2 or params.optimizer = sgd"])
def test_the_pages_of_a_study_are_its_trials_in_order(store, where, monkeypatch):
    monkeypatch.setattr(trial_pages, "TRIALS_OF_A_ROW", 10)
    monkeypatch.setattr(trial_pages, "FIRST_ROWS", 3)
    name = fill(store)[0]["study"]
    (study_id,) = ids_of_studies(store, [name]).values()
    quoted = name.replace("'", "''")
    for order in ("params.lr", "-params.layers", "params.optimizer", "-params.`a.b c``d`", "-value", "cost", "worker"):
        found, after = [], None
        while True:
            page = trial_pages.trial_page(store, study_id, where=where, order=order, after=after, limit=11)
            found += [trial.number for trial in page.trials]
            after = page.end
            if after is None:
                break
        condition = f"study = '{quoted}'" + (f" and ({where})" if where else "")
        asked = {"order_by": order.removeprefix("-"), "descending": order.startswith("-")}
        assert found == [row.number for row in query_trials(store, condition, **asked)]
        assert len(found) > 11


def test_without_an_order_they_come_as_recorded(store):
    recorded = [key(row) for row in fill(store, size=40)]
    assert keys(query_trials(store)) == recorded
    assert keys(query_trials(store, descending=True)) == recorded[::-1]
    assert keys(query_trials(store, "params.lr is null or number >= 0", descending=True, limit=3)) == recorded[:-4:-1]


def test_the_best_come_first_in_the_direction_of_their_study(store):
    rows = fill(store)

    def rank(row):
        signed = None if row["value"] is None else row["value"] * (-1 if row["direction"] == "maximize" else 1)
        return row["state"] != "complete", signed is None, signed or 0

    expected = [key(row) for row in sorted(rows, key=rank)]
    assert keys(query_trials(store, order_by="best")) == expected
    assert keys(query_trials(store, order_by="best", limit=7)) == expected[:7]
    some = [key(row) for row in sorted(rows, key=rank) if row["params"].get("optimizer") == "sgd"]
    assert keys(query_trials(store, "params.optimizer = sgd", order_by="best", limit=5)) == some[:5]


def test_rows_tell_everything(store):
    expected = fill(store, size=60)
    found = list(query_trials(store, curves=True))
    for row, wanted in zip(found, expected, strict=True):
        got = vars(row) | {"state": row.state.name.lower()}
        assert repr({name: got[name] for name in wanted}) == repr(wanted)
    assert all(row.curve is None for row in query_trials(store))


def test_totals_are_the_sums(store):
    rows = fill(store)
    found = totals(store)
    assert (found.trials, len(found.studies)) == (len(rows), 5)
    assert found.counts == Counter(TrialState[row["state"].upper()] for row in rows)
    assert found.cost_seconds == sum(row["cost_seconds"] or 0 for row in rows)
    assert found.cost_known == sum(row["cost_seconds"] is not None for row in rows)
    assert len(found.tasks) == 5
    for task in found.tasks:
        mine = [row for row in rows if row["task"] == task.task]
        complete = [row for row in mine if row["state"] == "complete"]
        values = [row["value"] for row in complete if row["value"] is not None and math.isfinite(row["value"])]
        assert task.best == (max if task.direction == "maximize" else min)(values)
        assert (task.best_study, task.best_number) in {key(row) for row in complete if row["value"] == task.best}
        assert (task.trials, task.complete, task.studies) == (len(mine), len(complete), 1)
    for study in found.studies:
        mine = [row for row in rows if row["study"] == study.study]
        assert study.started_at == min(row["started_at"] for row in mine if row["started_at"])
        assert study.finished_at == max(row["finished_at"] for row in mine if row["finished_at"])
        assert (study.source, study.quarantine) == (mine[0]["source"], mine[0]["quarantine"])


def test_the_studies_of_a_task_are_summed_up_together(store):
    for name, value in [("a", 3.0), ("b", 1.0), ("c", 2.0)]:
        study_id = create_study(
            store, name=name, task="t" if name != "c" else None, metric="loss" if name != "c" else None
        )
        with store.write() as connection:
            insert_trial(connection, study_id, 0, state=TrialState.COMPLETE.value, value=value, cost_seconds=2.0)
    alone, together = totals(store).tasks
    assert (together.task, together.studies, together.cost_seconds) == ("t", 2, 4.0)
    assert (together.best, together.best_study, together.best_number) == (1.0, "b", 0)
    assert (alone.task, alone.best_study) == (None, "c")


def test_totals_of_some(store):
    rows = fill(store)
    some = [row for row in rows if row["params"].get("optimizer") == "sgd" and row["epochs"] == 7]
    found = totals(store, "params.optimizer = sgd and epochs = 7")
    assert found.trials == sum(task.trials for task in found.tasks) == len(some) > 0
    assert {study.study for study in found.studies} == {row["study"] for row in some}


def test_nothing_is_found_in_an_empty_history(store):
    assert list(query_trials(store, "params.lr > 0 or task = a", order_by="params.lr")) == []
    assert count_trials(store, "params.lr > 0") == 0
    found = totals(store)
    assert (found.trials, found.tasks, found.studies, found.cost_seconds) == (0, (), (), 0)


def test_what_cannot_be_asked_is_said_at_once(sqlite_store):
    for where, order_by in [("lr > 1", None), ("", "lr"), ("", "attrs.note"), ("", "tags.team")]:
        with pytest.raises(QueryError):
            query_trials(sqlite_store, where, order_by=order_by)
    with pytest.raises(ValueError, match="at least 0"):
        query_trials(sqlite_store, limit=-1)


def test_values_are_bound_and_never_part_of_the_statement(store):
    fill(store, size=20)
    evil = "'; DROP TABLE trials; --"
    for field in ("task", "worker", "params.lr", "attrs.note", "tags.team", "params.`'; DROP TABLE trials; --`"):
        condition = Comparison(field=parse(f"{field} = 1").field, operator="=", value=evil)
        assert list(query_trials(store, condition)) == []
    assert count_trials(store) == 20


def test_what_a_parameter_set_settles_is_not_read(sqlite_store):
    fill(sqlite_store)
    known = ParameterSets()
    with sqlite_store.read() as connection:
        without = query_plan.plan(parse("params.none > 1"), connection, known, "sqlite")
        assert connection.execute(trials.select().where(without.where)).first() is None
        some = query_plan.plan(parse("params.optimizer = sgd"), connection, known, "sqlite")
        read = connection.execute(trials.select().where(some.where)).all()
        sets = {row.parameter_set_id for row in read}
        assert all("optimizer" in known.load(connection, sets)[number].names for number in sets)


def test_the_parameters_of_a_selection(store):
    fill(store)
    with select_trials(store, "params.layers = deep") as selection:
        rows = list(selection.rows)
        assert {name for row in rows for name in row.params} <= selection.parameters.keys()
        assert selection.parameters["layers"] == (CategoricalDistribution(["2", "4", "deep"]),)
    with select_trials(store, limit=3, order_by="value") as selection:
        assert selection.parameters.keys() == KINDS.keys()
        assert len(list(selection.rows)) == 3


def test_a_family_is_found_by_its_name(store):
    space = {"lr": {"type": "float", "low": 0, "high": 1}}
    study_id = create_study(store, name="a", task="t", metric="loss", space=space)
    with store.write() as connection:
        insert_trial(connection, study_id, 0, state=TrialState.COMPLETE.value, value=1.0)
        note_change(store, connection, study_id)
    (row,) = query_trials(store, "family like 'loss-%'")
    assert row.family is not None
    assert count_trials(store, f"family = {row.family} and task = t") == 1
    assert count_trials(store, "family is null") == 0


def test_rows_stream(store, monkeypatch):
    """Batches may be of any size, and no more is read than is asked for."""
    rows = fill(store)
    monkeypatch.setattr("storage.queries.ROWS_AT_A_TIME", 7)
    monkeypatch.setattr("storage.queries.TRIALS_AT_A_TIME", 5)
    for where in ("number >= 0", "params.lr is not null or number >= 0"):
        found = query_trials(store, where, curves=True)
        first = next(found)
        assert (first.study, first.number) == key(rows[0])
        assert keys(found) == [key(row) for row in rows[1:]]
    found = query_trials(store, "params.lr is null or number >= 0", order_by="params.lr", limit=11)
    assert len(list(found)) == 11
    abandoned = query_trials(store)
    next(abandoned)
    abandoned.close()
    assert count_trials(store) == len(rows)
