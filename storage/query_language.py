"""What a question about past runs may say.

    params.lr between 1e-4 and 1e-2 and params.optimizer in ('sgd', 'adam') and not (source = 'mlflow:team')

Keywords are read in any case; whitespace means nothing. The grammar:

    condition   = conjunction {"or" conjunction}
    conjunction = factor {"and" factor}
    factor      = "not" factor | "(" condition ")" | comparison
    comparison  = field ("=" | "!=" | "<" | "<=" | ">" | ">=") value
                | field ["not"] "in" "(" value {"," value} ")"
                | field ["not"] "between" value "and" value
                | field ["not"] ("like" | "ilike") pattern        % is any text, _ any character, \\ escapes them
                | field "is" ["not"] "null"
    field       = one of FIELDS | "params." name | "attrs." name | "tags." name

Names that are not plain words stand in backticks or double quotes, texts in single or double quotes; a quote within is
doubled. A text that is one word needs none. Times are ISO 8601, in UTC where they have no zone; a day is its first
moment.

A comparison with something that a trial does not have is false, also one with `!=` or `not in`; only `is null` is true.
`not` turns that around: `not params.lr = 1` holds for a trial without a learning rate.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Literal, TypeAlias

from storage.errors import StorageError

MAX_LENGTH = 10_000  # characters; a person's question has some hundred
MAX_DEPTH = 100  # parentheses and `not`s around a comparison; SQLite's limit is 1,000 steps for all of an expression
MAX_COMPARISONS = 500  # for the same reason
SHOWN_AROUND_AN_ERROR = 60  # characters on each side

Kind = Literal["text", "integer", "number", "time", "state"]
FIELDS: dict[str, Kind] = {
    "task": "text",
    "family": "text",
    "study": "text",
    "source": "text",
    "metric": "text",
    "direction": "text",
    "quarantine": "text",
    "state": "state",
    "value": "number",
    "number": "integer",
    "seed": "integer",
    "epochs": "integer",
    "cost": "number",  # seconds
    "started": "time",
    "finished": "time",
    "worker": "text",
    "error": "text",
    "code_version": "text",
    "data_fingerprint": "text",
    "hardware": "text",
    "checkpoint": "text",
}
STATES = ("running", "complete", "pruned", "fail", "waiting")  # in the order of optuna.trial.TrialState

Value: TypeAlias = str | int | float | bool | datetime
Operator = Literal["=", "!=", "<", "<=", ">", ">="]


class QueryError(StorageError, ValueError):
    """A question that cannot be read: shows where, and what was expected there."""

    def __init__(self, reason: str, text: str = "", position: int = 0) -> None:
        super().__init__(reason, text, position)
        self.reason = reason
        self.text = text
        self.position = position  # of the mistake, in characters

    def __str__(self) -> str:
        start = max(0, self.position - SHOWN_AROUND_AN_ERROR)
        end = self.position + SHOWN_AROUND_AN_ERROR
        before, after = ("…" if start else ""), ("…" if end < len(self.text) else "")
        shown = "".join(char if char.isprintable() else " " for char in self.text[start:end])
        caret = " " * (len(before) + self.position - start) + "^"
        return f"This condition cannot be read:\n  {before}{shown}{after}\n  {caret}\n{self.reason}"


@dataclass(frozen=True, kw_only=True)
class Field:
    """What is compared."""

    room: Literal["column", "params", "attrs", "tags"]
    name: str

    @property
    def kind(self) -> Kind | None:
        """What its values are; None: a parameter's or an attribute's may be anything."""
        return FIELDS[self.name] if self.room == "column" else None

    def __str__(self) -> str:
        if self.room == "column":
            return self.name
        is_plain = _BARE.fullmatch(self.name) is not None and not self.name.endswith(".")
        return f"{self.room}." + (self.name if is_plain else "`" + self.name.replace("`", "``") + "`")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A field against a value."""

    field: Field
    operator: Operator
    value: Value

    def __str__(self) -> str:
        return f"{self.field} {self.operator} {_written(self.value)}"


@dataclass(frozen=True, kw_only=True)
class Membership:
    """A field against a list of values."""

    field: Field
    values: tuple[Value, ...]
    negated: bool = False

    def __str__(self) -> str:
        return f"{self.field} {_not(self.negated)}in ({', '.join(map(_written, self.values))})"


@dataclass(frozen=True, kw_only=True)
class Between:
    """A field against a range, ends included."""

    field: Field
    low: Value
    high: Value
    negated: bool = False

    def __str__(self) -> str:
        return f"{self.field} {_not(self.negated)}between {_written(self.low)} and {_written(self.high)}"


@dataclass(frozen=True, kw_only=True)
class Like:
    """A text against a pattern."""

    field: Field
    pattern: str
    ignore_case: bool = False  # of the letters a to z
    negated: bool = False

    def __str__(self) -> str:
        return f"{self.field} {_not(self.negated)}{'i' * self.ignore_case}like {_written(self.pattern)}"


@dataclass(frozen=True, kw_only=True)
class IsNull:
    """Whether a trial does not have the field at all."""

    field: Field
    negated: bool = False

    def __str__(self) -> str:
        return f"{self.field} is {_not(self.negated)}null"


@dataclass(frozen=True, kw_only=True)
class Not:
    """The opposite."""

    part: "Condition"

    def __str__(self) -> str:
        return f"not {_grouped(self.part)}"


@dataclass(frozen=True, kw_only=True)
class And:
    """All of these; without parts it holds always."""

    parts: tuple["Condition", ...] = ()

    def __str__(self) -> str:
        return " and ".join(map(_grouped, self.parts))


@dataclass(frozen=True, kw_only=True)
class Or:
    """At least one of these."""

    parts: tuple["Condition", ...]

    def __str__(self) -> str:
        return " or ".join(map(_grouped, self.parts))


Atom: TypeAlias = Comparison | Membership | Between | Like | IsNull
Condition: TypeAlias = Atom | Not | And | Or
"""A question that was understood; `str` gives a text that `parse` reads as the same."""

ALWAYS = And()


def parse(text: str) -> Condition:
    """Read a condition; nothing at all holds for every trial. Raises QueryError."""
    if len(text) > MAX_LENGTH:
        raise QueryError(f"it is too long: {len(text):,} characters, at most {MAX_LENGTH:,}", text, MAX_LENGTH)
    for position, char in enumerate(text):
        if char == "\0" or "\ud800" <= char <= "\udfff":
            raise QueryError(f"the character U+{ord(char):04X} is in no name and no text", text, position)
    return _Parser(text, list(_tokens(text))).parse()


def parse_field(text: str) -> Field:
    """Read the name of a field: `value`, `params.lr`, `attrs.note`. Raises QueryError."""
    tokens = list(_tokens(text))
    field = _field_of(text, tokens[0])
    if tokens[1].kind != "end":
        raise QueryError("expected the end after the field's name", text, tokens[1].position)
    return field


def glob_of(pattern: str) -> str:
    """A pattern of `like` as one of `glob`: * for %, ? for _."""
    return "".join(
        {"%": "*", "_": "?"}[part] if is_wild else f"[{part}]" if part in "*?[" else part
        for part, is_wild in _pattern_parts(pattern)
    )


def escaped_like(pattern: str) -> str:
    """A pattern of `like` in which every % or _ that stands for itself, and no other character, is escaped."""
    return "".join(part if is_wild or part not in "%_\\" else f"\\{part}" for part, is_wild in _pattern_parts(pattern))


def fold_case(text: str) -> str:
    """The text with A to Z in lower case and all else as it is, as databases do it."""
    return text.translate(_FOLDED)


# How it is read

_Kind = Literal["bare", "text", "quoted", "backticks", "symbol", "end"]
_BARE = re.compile(r"[\w.+\-:/@%]+")
_SYMBOL = re.compile(r"<=|>=|!=|<>|==|[=<>(),]")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?inf", re.IGNORECASE)
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
_KEYWORDS = ("and", "or", "not", "in", "between", "like", "ilike", "is", "null")
_OPERATORS: dict[str, Operator] = {
    "=": "=",
    "==": "=",
    "!=": "!=",
    "<>": "!=",
    "<": "<",
    "<=": "<=",
    ">": ">",
    ">=": ">=",
}
_ROOMS: dict[str, Literal["params", "attrs", "tags"]] = {
    "params": "params",
    "param": "params",
    "parameters": "params",
    "parameter": "params",
    "attrs": "attrs",
    "attr": "attrs",
    "tags": "tags",
    "tag": "tags",
}
_ALIASES = {
    "cost_seconds": "cost",
    "started_at": "started",
    "finished_at": "finished",
    "trial": "number",
}
_STATE_ALIASES = {"completed": "complete", "finished": "complete", "failed": "fail"}
_FOLDED = {ord(upper): ord(upper) + 32 for upper in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
_INT64 = 2**63


@dataclass(frozen=True, kw_only=True)
class _Token:
    kind: _Kind
    text: str  # without its quotes
    position: int
    prefix: str = ""  # what stood before the quote of a name: `params.`

    @property
    def keyword(self) -> str:
        """The keyword or symbol that it is; empty for anything else."""
        if self.kind == "symbol":
            return self.text
        lower = self.text.lower()
        return lower if self.kind == "bare" and lower in _KEYWORDS else ""


def _tokens(text: str) -> Iterator[_Token]:
    position = 0
    while position < len(text):
        if text[position].isspace():
            position += 1
        elif text[position] in "'\"`":
            token, position = _quoted(text, position, position)
            yield token
        elif bare := _BARE.match(text, position):
            end = bare.end()
            if bare.group().endswith(".") and text[end : end + 1] in ("`", '"'):
                token, position = _quoted(text, end, position)
                yield token
            else:
                yield _Token(kind="bare", text=bare.group(), position=position)
                position = end
        elif symbol := _SYMBOL.match(text, position):
            yield _Token(kind="symbol", text=symbol.group(), position=position)
            position = symbol.end()
        else:
            raise QueryError(
                f"expected a field, a value or an operator, not {text[position]!r}; put texts in quotes", text, position
            )
    yield _Token(kind="end", text="", position=position)


def _quoted(text: str, start: int, begin: int) -> tuple[_Token, int]:
    """The token whose quote opens at `start` and whose prefix begins at `begin`; and where the next one may begin."""
    quote = text[start]
    kind: _Kind = "text" if quote == "'" else "quoted" if quote == '"' else "backticks"
    position = start + 1
    while True:
        end = text.find(quote, position)
        if end < 0:
            raise QueryError(f"this {quote} is never closed", text, start)
        if text[end + 1 : end + 2] != quote:
            break
        position = end + 2
    content = text[start + 1 : end].replace(quote * 2, quote)
    return _Token(kind=kind, text=content, position=begin, prefix=text[begin:start]), end + 1


class _Parser:
    """Reads one condition by recursive descent; each method begins at a token and ends behind what it read."""

    def __init__(self, text: str, tokens: list[_Token]) -> None:
        self._text = text
        self._tokens = tokens
        self._next = 0
        self._depth = 0
        self._comparisons = 0

    def parse(self) -> Condition:
        if self._is_at_end():
            return ALWAYS
        condition = self._condition()
        if not self._is_at_end():
            raise self._expected("`and`, `or` or the end")
        return condition

    def _condition(self) -> Condition:
        return self._chain("or", self._conjunction, Or)

    def _conjunction(self) -> Condition:
        return self._chain("and", self._factor, And)

    def _chain(self, word: str, read: Callable[[], Condition], kind: type[And] | type[Or]) -> Condition:
        parts: list[Condition] = []
        while True:
            part = read()
            parts += part.parts if isinstance(part, kind) else (part,)
            if not self._accept(word):
                return parts[0] if len(parts) == 1 else kind(parts=tuple(parts))

    def _factor(self) -> Condition:
        opening = self._here
        if opening.keyword not in ("not", "("):
            return self._comparison()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise QueryError(f"this is nested too deeply, at most {MAX_DEPTH} levels", self._text, opening.position)
        self._next += 1
        if opening.keyword == "not":
            condition: Condition = Not(part=self._factor())
        else:
            condition = self._condition()
            if not self._accept(")"):
                raise self._expected(f"`and`, `or` or the `)` for the `(` at character {opening.position + 1}")
        self._depth -= 1
        return condition

    def _comparison(self) -> Atom:
        position = self._here.position
        field = _field_of(self._text, self._here)
        self._next += 1
        self._comparisons += 1
        if self._comparisons > MAX_COMPARISONS:
            raise QueryError(f"these are too many comparisons, at most {MAX_COMPARISONS}", self._text, position)
        if self._accept("is"):
            return self._is_null(field)
        negated = self._accept("not")
        if self._accept("in"):
            return Membership(field=field, values=self._list(field), negated=negated)
        if self._accept("between"):
            low = self._ordered_value(field, "between")
            if not self._accept("and"):
                raise self._expected("`and` and the upper end of the range")
            return Between(field=field, low=low, high=self._ordered_value(field, "between"), negated=negated)
        if self._here.keyword in ("like", "ilike"):
            return self._like(field, negated=negated)
        if negated:
            raise self._expected("`in`, `between`, `like` or `ilike` after `not`")
        operator = _OPERATORS.get(self._here.keyword)
        if operator is None:
            raise self._expected(f"an operator after {field}: = != < <= > >= in, between, like, ilike or is")
        if operator not in ("=", "!="):
            self._refuse_for_state(field, operator)
        self._next += 1
        return Comparison(field=field, operator=operator, value=self._value(field))

    def _is_null(self, field: Field) -> IsNull:
        negated = self._accept("not")
        if not self._accept("null"):
            raise self._expected("`null` or `not null`")
        return IsNull(field=field, negated=negated)

    def _like(self, field: Field, *, negated: bool) -> Like:
        word = self._here.keyword
        if field.kind not in (None, "text"):
            raise QueryError(f"{field} is no text, so it is not like anything: {_usable(field)}", *self._place)
        self._next += 1
        token = self._here
        if token.kind not in ("bare", "text", "quoted") or token.prefix or token.keyword:
            raise self._expected("a pattern such as 'digits%'")
        self._next += 1
        return Like(field=field, pattern=token.text, ignore_case=word == "ilike", negated=negated)

    def _list(self, field: Field) -> tuple[Value, ...]:
        if not self._accept("("):
            raise self._expected("`(` and a list of values")
        values = [self._value(field)]
        while self._accept(","):
            values.append(self._value(field))
        if not self._accept(")"):
            raise self._expected("`,` or `)`")
        return tuple(values)

    def _ordered_value(self, field: Field, operator: str) -> Value:
        self._refuse_for_state(field, operator)
        return self._value(field)

    def _refuse_for_state(self, field: Field, operator: str) -> None:
        if field.kind == "state":
            raise QueryError(f"states have no order for {operator}: {_usable(field)}", *self._place)

    def _value(self, field: Field) -> Value:
        token = self._here
        if token.kind not in ("bare", "text", "quoted") or token.prefix:
            raise self._expected("a value")
        if token.keyword:
            hint = f": `{field} is null`" if token.keyword == "null" else ""
            raise self._expected(f"a value{hint}; a text that is also a keyword stands in quotes")
        if token.kind == "bare" and _reads_like_a_field(token.text):
            raise self._expected("a value, not another field; a text that is also a field's name stands in quotes")
        self._next += 1
        try:
            return _READERS[field.kind](token)
        except ValueError as error:
            raise QueryError(f"{field}: {error}", self._text, token.position) from None

    @property
    def _here(self) -> _Token:
        return self._tokens[self._next]

    @property
    def _place(self) -> tuple[str, int]:
        return self._text, self._here.position

    def _is_at_end(self) -> bool:
        return self._here.kind == "end"

    def _accept(self, keyword: str) -> bool:
        found = self._here.keyword == keyword
        self._next += found
        return found

    def _expected(self, what: str) -> QueryError:
        found = "the end" if self._here.kind == "end" else repr(self._here.prefix + self._here.text)
        return QueryError(f"expected {what}, found {found}", *self._place)


# Fields


def _field_of(text: str, token: _Token) -> Field:
    if token.kind in ("symbol", "end", "text") or token.keyword:
        found = "the end" if token.kind == "end" else repr(token.text)
        raise QueryError(f"expected a field such as value, task or params.lr, found {found}", text, token.position)
    if token.kind == "bare" or not token.prefix:
        first, dot, rest = token.text.partition(".")
    else:
        first, dot, rest = token.prefix[:-1], ".", token.text
    room = _ROOMS.get(first.lower())
    if dot and room is not None:
        if not rest:
            raise QueryError(f"expected a name after `{first}.`", text, token.position)
        return Field(room=room, name=rest)
    whole = (token.prefix + token.text).lower()
    name = _ALIASES.get(whole, whole)
    if name not in FIELDS:
        raise QueryError(_unknown(token.prefix + token.text), text, token.position)
    return Field(room="column", name=name)


def _reads_like_a_field(text: str) -> bool:
    first, dot, _ = text.lower().partition(".")
    return first in _ROOMS if dot else first in FIELDS


def _unknown(name: str) -> str:
    """What to say of a name that is no field."""
    first, dot, rest = name.partition(".")
    if dot and first.lower() in ("metrics", "metric"):
        return f"there is no field {name!r}; a trial has one value: metric = '{rest}' and value < …"
    near = get_close_matches(name.lower(), [*FIELDS, *_ALIASES], n=3, cutoff=0.7)
    if near:
        return f"there is no field {name!r}; did you mean {' or '.join(near)}? (a hyperparameter is params.{name})"
    return (
        f"there is no field {name!r}; a hyperparameter is params.{name}, an attribute attrs.{name} or tags.{name}; "
        f"the fields are {', '.join(FIELDS)}"
    )


def _usable(field: Field) -> str:
    example = {"state": "state in (complete, pruned)", "time": f"{field} >= '2026-01-31'"}.get(str(field.kind))
    return f"use {example or f'{field} = 1, {field} < 1 or {field} between 0 and 1'}"


# Values


def _read_anything(token: _Token) -> Value:
    if token.kind == "bare":
        if token.text.lower() in ("true", "false"):
            return token.text.lower() == "true"
        if _NUMBER.fullmatch(token.text):
            return _number(token.text)
    return token.text


def _read_text(token: _Token) -> str:
    return token.text


def _read_number(token: _Token) -> int | float:
    text = token.text.strip()
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"expected a number, found {token.text!r}")
    return _number(text)


def _read_state(token: _Token) -> str:
    name = _STATE_ALIASES.get(token.text.lower(), token.text.lower())
    if name not in STATES:
        near = get_close_matches(name, STATES, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"expected one of {', '.join(STATES)}, found {token.text!r}{hint}")
    return name


def _read_time(token: _Token) -> datetime:
    try:
        time = datetime.fromisoformat(token.text.strip())
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(
            f"expected a time such as '2026-01-31' or '2026-01-31T14:00+02:00', found {token.text!r}"
        ) from None


_READERS: dict[Kind | None, Callable[[_Token], Value]] = {
    None: _read_anything,
    "text": _read_text,
    "number": _read_number,
    "integer": _read_number,
    "time": _read_time,
    "state": _read_state,
}


def _number(text: str) -> int | float:
    """A number; an integer stays one as long as databases can hold it."""
    number = float(text)
    if math.isinf(number) and "inf" not in text.lower():
        raise ValueError(f"{text} is too large for a number")
    if _INTEGER.fullmatch(text) and -_INT64 <= int(text) < _INT64:
        return int(text)
    return number


def _pattern_parts(pattern: str) -> Iterator[tuple[str, bool]]:
    """The characters of a pattern, and which of them are wild; runs of % are one."""
    characters = iter(pattern)
    after_any = False
    for char in characters:
        if char == "\\":
            yield next(characters, "\\"), False
        elif char != "%" or not after_any:
            yield char, char in "%_"
        after_any = char == "%"


# How it is written


def _written(value: Value) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return f"'{value.isoformat()}'"
    return repr(value)


def _not(negated: bool) -> str:
    return "not " if negated else ""


def _grouped(part: Condition) -> str:
    return f"({part})" if isinstance(part, And | Or) else str(part)
