"""Is a question understood, or else is it said what was expected where?"""

from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from storage.query_language import (
    ALWAYS,
    FIELDS,
    MAX_COMPARISONS,
    MAX_DEPTH,
    MAX_LENGTH,
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
    escaped_like,
    glob_of,
    parse,
    parse_field,
)

QUESTION = (
    "params.lr between 1e-4 and 1e-2 and params.optimizer in ('sgd', 'adam') and state = complete and task like "
    "'digits%' and value < 0.3 and started >= '2026-01-01' and tags.team = 'vision' and "
    "not (source = 'mlflow:team' or family like 'val_loss-%')"
)


def column(name):
    return Field(room="column", name=name)


def equal(name, value):
    return Comparison(field=column(name), operator="=", value=value)


# Whole questions

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
names = texts.filter(bool)
integers = st.integers(-(2**63), 2**63 - 1)
numbers = integers | st.floats(allow_nan=False)
times = st.datetimes(timezones=st.just(UTC)).map(lambda time: time.replace(fold=0))
values = {
    None: texts | numbers | st.booleans(),
    "text": texts,
    "number": numbers,
    "integer": numbers,
    "time": times,
    "state": st.sampled_from(STATES),
}
fields = st.sampled_from(list(FIELDS)).map(column) | st.builds(
    Field, room=st.sampled_from(["params", "attrs", "tags"]), name=names
)


@st.composite
def atoms(draw):
    field = draw(fields)
    value, negated = values[field.kind], draw(st.booleans())
    kinds = ["comparison", "membership", "null"]
    kinds += ["between", "order"] if field.kind != "state" else []
    kinds += ["like"] if field.kind in (None, "text") else []
    kind = draw(st.sampled_from(kinds))
    if kind in ("comparison", "order"):
        operators = ["=", "!="] if kind == "comparison" else ["<", "<=", ">", ">="]
        return Comparison(field=field, operator=draw(st.sampled_from(operators)), value=draw(value))
    if kind == "membership":
        return Membership(field=field, values=tuple(draw(st.lists(value, min_size=1, max_size=3))), negated=negated)
    if kind == "between":
        return Between(field=field, low=draw(value), high=draw(value), negated=negated)
    if kind == "like":
        return Like(field=field, pattern=draw(texts), ignore_case=draw(st.booleans()), negated=negated)
    return IsNull(field=field, negated=negated)


def chained(kind):
    def build(parts):
        flat = [inner for part in parts for inner in (part.parts if isinstance(part, kind) else (part,))]
        return kind(parts=tuple(flat))

    return build


conditions = st.recursive(
    atoms(),
    lambda inner: (
        st.builds(Not, part=inner)
        | st.lists(inner, min_size=2, max_size=4).map(chained(And))
        | st.lists(inner, min_size=2, max_size=4).map(chained(Or))
    ),
    max_leaves=8,
)


@given(conditions)
def test_what_is_printed_reads_the_same(condition):
    assert repr(parse(str(condition))) == repr(condition)  # 1, 1.0 and true are equal, but not the same


words = st.sampled_from(
    ["and", "or", "not", "in", "between", "like", "ilike", "is", "null", "(", ")", ",", "=", "!=", "<=", "<", "'", '"',
     "`", "params.", "attrs.", "params.lr", "value", "state", "task", "started", "complete", "1e-3", "-5", "1e999",
     "'a'", "2026-01-01", ".", "%", "\\", "\n", "é", "\x00", "\ud800"]
)  # fmt: skip


def understood(reader, text):
    """What was read, or the error, which must be a polite one."""
    try:
        return reader(text)
    except QueryError as error:
        return error


@given(st.text(max_size=60) | st.lists(words, max_size=15).map(" ".join) | st.lists(words, max_size=15).map("".join))
def test_garbage_is_refused_politely(text):
    found = understood(parse, text)
    if isinstance(found, QueryError):
        assert 0 <= found.position <= len(text)
        assert found.reason in str(found)
    else:
        assert repr(parse(str(found))) == repr(found)


@given(st.text(max_size=30))
def test_garbage_is_no_field_either(text):
    found = understood(parse_field, text)
    assert isinstance(found, QueryError) or parse_field(str(found)) == found


def test_a_long_question():
    condition = parse(QUESTION)
    assert [type(part) for part in condition.parts] == [
        Between, Membership, Comparison, Like, Comparison, Comparison, Comparison, Not,
    ]  # fmt: skip
    assert condition.parts[5].value == datetime(2026, 1, 1, tzinfo=UTC)
    assert condition.parts[6].field == Field(room="tags", name="team")
    assert [str(part) for part in condition.parts[7].part.parts] == [
        "source = 'mlflow:team'",
        "family like 'val_loss-%'",
    ]


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_no_question_holds_for_all(text):
    assert parse(text) == ALWAYS


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("VALUE < 1 And TASK Is Not Null", "value < 1 and task is not null"),
        ("number==1 and seed<>2", "number = 1 and seed != 2"),
        ("((number = 1 and seed = 2)) and epochs = 3", "number = 1 and seed = 2 and epochs = 3"),
        ("number = 1 or seed = 2 and epochs = 3", "number = 1 or (seed = 2 and epochs = 3)"),
        ("not number = 1 and seed = 2", "(not number = 1) and seed = 2"),
        ("cost_seconds > 1 and started_at is null", "cost > 1 and started is null"),
        ("parameters.lr = 1", "params.lr = 1"),
        ("task = digits_mlp/all", "task = 'digits_mlp/all'"),
        ("family = val_loss-1a2b3c4d", "family = 'val_loss-1a2b3c4d'"),
        ("code_version = 1e5", "code_version = '1e5'"),
        ("started > 2026-01-31", "started > '2026-01-31T00:00:00+00:00'"),
        ("started > '2026-01-31T14:00+02:00'", "started > '2026-01-31T12:00:00+00:00'"),
        ("state in (FAILED, completed)", "state in ('fail', 'complete')"),
        ("value < '0.5'", "value < 0.5"),
        ('params."a b" = "it\'s"', "params.`a b` = 'it''s'"),
        ('params.`a``b` = "say ""hi"""', "params.`a``b` = 'say \"hi\"'"),
        ("params.optimizer.name = x", "params.\"optimizer.name\" = 'x'"),
        ("params.batch-size = 32", "params.`batch-size` = 32"),
        ("value<-1", "value < -1"),
        ("value > -inf", "value > -INF"),
    ],
)
def test_the_same_said_differently(text, same):
    assert parse(text) == parse(same)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("1.0", 1.0), ("-5", -5), (".5", 0.5), ("1e-3", 1e-3), ("true", True), ("'true'", "true"), ("'1'", "1"),
     ("sgd", "sgd"), (str(2**63), float(2**63)), ("9" * 300, float("9" * 300)), ("3abc", "3abc")],
)  # fmt: skip
def test_values_have_types(text, value):
    assert repr(parse(f"params.x = {text}").value) == repr(value)


# What is refused


@pytest.mark.parametrize(
    ("text", "position", "reason"),
    [
        ("stat = complete", 0, "did you mean state"),
        ("lr > 1", 0, "a hyperparameter is params.lr"),
        ("metrics.val_loss < 1", 0, "metric = 'val_loss' and value < …"),
        ("state = complte", 8, "did you mean complete?"),
        ("state < complete", 6, "state in (complete, pruned)"),
        ("state between complete and fail", 14, "state in (complete, pruned)"),
        ("value = ", 8, "expected a value, found the end"),
        ("value ~ 1", 6, "not '~'"),
        ("value 1", 6, "expected an operator after value"),
        ("value not 1", 10, "after `not`"),
        ("value = abc", 8, "expected a number, found 'abc'"),
        ("value = 1e999", 8, "too large"),
        ("value like '3%'", 6, "value is no text"),
        ("value = null", 8, "value is null"),
        ("value is 3", 9, "`null` or `not null`"),
        ("value in 3", 9, "`(`"),
        ("value in (1", 11, "`,` or `)`"),
        ("value in ()", 10, "expected a value"),
        ("value between 1 or 2", 16, "`and`"),
        ("started > yesterday", 10, "2026-01-31"),
        ("started > '0001-01-01T00:00+14:00'", 10, "2026-01-31"),
        ("started like '2026%'", 8, "started >= '2026-01-31'"),
        ("task = 'x", 7, "never closed"),
        ("params.`x = 1", 7, "never closed"),
        ("params. = 1", 0, "a name after `params.`"),
        ("params.lr < params.wd", 12, "not another field"),
        ("params.lr < value", 12, "not another field"),
        ("'task' = 1", 0, "expected a field"),
        ("task like like", 10, "a pattern"),
        ("(value = 1", 10, "the `(` at character 1"),
        ("value = 1)", 9, "the end"),
        ("value = 1 value = 2", 10, "`and`, `or` or the end"),
        ("value = 1 and", 13, "expected a field"),
        ("task = 'a\0'", 9, "U+0000"),
        ("task = '\ud800'", 8, "U+D800"),
    ],
)
def test_a_mistake_is_shown_where_it_is(text, position, reason):
    with pytest.raises(QueryError) as caught:
        parse(text)
    assert caught.value.position == position
    assert reason in caught.value.reason
    first, shown, caret, _ = str(caught.value).split("\n")
    assert first == "This condition cannot be read:"
    assert caret.index("^") == position + 2
    assert shown.isprintable()


def test_only_the_surroundings_of_a_mistake_are_shown():
    text = "seed = 1 or " * 100 + "sed = 1" + " or seed = 1" * 100
    with pytest.raises(QueryError) as caught:
        parse(text)
    _, shown, caret, reason = str(caught.value).split("\n")
    assert len(shown) < 150
    assert shown[caret.index("^") :].startswith("sed = 1")
    assert "did you mean seed?" in reason


def test_size_has_limits():
    assert parse("(" * MAX_DEPTH + "seed = 1" + ")" * MAX_DEPTH) == equal("seed", 1)
    parse("not " * MAX_DEPTH + "seed = 1")
    parse(" or ".join(["seed = 1"] * MAX_COMPARISONS))
    too_much = [
        "(" * 101 + "seed = 1" + ")" * 101,
        "not " * 101 + "seed = 1",
        " or ".join(["seed = 1"] * 501),
        f"task = '{'a' * MAX_LENGTH}'",
    ]
    for text in too_much:
        with pytest.raises(QueryError, match=r"too (deeply|many|long)"):
            parse(text)


# Patterns


@given(st.text("ab%_\\*?[]^!-", max_size=10))
@example("[a]*?")
def test_the_forms_of_a_pattern_agree(pattern):
    assert glob_of(escaped_like(pattern)) == glob_of(pattern)


@pytest.mark.parametrize(
    ("pattern", "glob", "like"),
    [
        ("a%b_", "a*b?", "a%b_"),
        (r"100\%", "100%", r"100\%"),
        ("[x]*?", "[[]x][*][?]", "[x]*?"),
        ("a%%%b", "a*b", "a%b"),
        ("\\", "\\", r"\\"),
        (r"\a", "a", "a"),
    ],
)
def test_patterns(pattern, glob, like):
    assert (glob_of(pattern), escaped_like(pattern)) == (glob, like)


def test_a_field_alone():
    assert parse_field("params.lr") == Field(room="params", name="lr")
    assert parse_field(" value ") == column("value")
    for text in ("", "lr", "value desc", "params."):
        with pytest.raises(QueryError):
            parse_field(text)
