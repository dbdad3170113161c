"""What does jsonargparse, LightningCLI's parser, say in one line?

Where a value may have one of several types it lists its objections by type, over 20 lines, of which one or two help.
"""

from __future__ import annotations

import re

KEY = re.compile(r'Parser key "([^"]+)":')
PROBLEM = re.compile(r"- Problem with given class_path '([^']+)':")
NO_KEY = re.compile(r"(?:unrecognized arguments|ambiguous option): --([^\s=]+)")
NO_CLASS = re.compile(r"Expected a dot import path string: (\S+)")
EXPECTED = re.compile(r"Expected an? (?:<class '(?:\w+\.)*(\w+)'>|(.+))$")
GIVEN = re.compile(r"(?:Got value|Given value): (.*)$")


def one_line(error: BaseException) -> str:
    """The key, and what is wrong with it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if unknown := NO_KEY.match(lines[0]):
        return f"there is no key {unknown[1]}"
    keys = [key[1] for line in lines if (key := KEY.search(line))]
    if not keys:
        return " ".join(lines).replace("--", "")
    for place, line in enumerate(lines):
        if problem := PROBLEM.match(line):
            return f"{keys[0]}: {problem[1]}: {_first_objection(lines[place + 1 :])}"
    if missing := [found[1] for line in lines if (found := NO_CLASS.search(line))]:
        return f"{keys[0]}: there is no class {missing[0]!r}; write its whole import path"
    return f"{'.'.join(keys)}: {_mismatch(lines) or lines[-1]}"


def _first_objection(lines: list[str]) -> str:
    """What is said of a class, up to what is said against another type."""
    objection: list[str] = []
    for line in lines:
        if line.startswith(("- ", "Given value")):
            break
        objection.append(line)
    key = KEY.match(objection[0]) if objection else None
    return f"{key[1]}: {_mismatch(objection)}" if key and _mismatch(objection) else " ".join(objection)


def _mismatch(lines: list[str]) -> str:
    """`expected int or float, not 'abc'`; empty where no type is said to be expected."""
    found = [expected for line in lines if (expected := EXPECTED.search(line.partition(". Got value")[0]))]
    types = list(dict.fromkeys("null" if each[1] == "NoneType" else each[1] or _choices(each[2]) for each in found))
    given = [value[1] for line in lines if (value := GIVEN.search(line))]
    return f"expected {' or '.join(types)}" + (f", not {given[0]}" if given else "") if types else ""


def _choices(expected: str) -> str:
    """`one of 16, 32` for `typing.Literal[16, 32]`."""
    return re.sub(r"^typing\.Literal\[(.*)\]$", r"one of \1", expected)
