"""What is tried again, for how long, and how does a call know that it is repeated?"""

import errno
import sqlite3
import time

import psycopg
import pytest

from storage.errors import StoreUnavailableError
from storage.retries import Call, is_passing, patient_until, patiently, retried, retried_call


class Owner:
    def __init__(self, patience_seconds=30.0):
        self.patience_seconds = patience_seconds


def away(*, is_passing=True):
    error = StoreUnavailableError("away")
    error.is_passing = is_passing
    return error


def test_a_call_knows_that_it_is_repeated():
    calls = []

    @retried_call
    def write(owner, call: Call, value):
        calls.append((call.id, call.at, call.is_repeated))
        if len(calls) < 3:
            raise away()
        return value

    assert write(Owner(), 5) == 5
    assert [is_repeated for _, _, is_repeated in calls] == [False, True, True]
    assert len({call_id for call_id, _, _ in calls}) == len({at for _, at, _ in calls}) == 1
    write(Owner(), 5)
    assert calls[-1][0] != calls[0][0] and not calls[-1][2]


@pytest.mark.parametrize("error", [away(is_passing=False), ValueError("no")])
def test_what_does_not_pass_is_raised_at_once(error):
    attempts = []

    @retried
    def read(owner):
        attempts.append(1)
        raise error

    with pytest.raises(type(error)):
        read(Owner())
    assert attempts == [1]


def test_patience_has_an_end():
    attempts = []

    @retried
    def read(owner):
        attempts.append(1)
        raise away()

    with pytest.raises(StoreUnavailableError):
        read(Owner(patience_seconds=0.2))
    assert len(attempts) > 1


def test_who_is_called_by_a_patient_one_has_no_more_time_than_he():
    def inner():
        return patiently(lambda: patient_until(100.0), 100.0)

    started = time.monotonic()
    until = patiently(inner, 5.0)
    assert started + 5.0 <= until <= time.monotonic() + 5.0
    assert inner() > until + 50.0  # and afterwards everybody has his own again


def test_a_locked_file_passes_and_others_do_not(tmp_path):
    first, second = (sqlite3.connect(tmp_path / "a.db", timeout=0, isolation_level=None) for _ in range(2))
    first.execute("BEGIN EXCLUSIVE")
    with pytest.raises(sqlite3.OperationalError) as locked:
        second.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError) as no_table:
        first.execute("SELECT * FROM missing")
    (tmp_path / "b.db").write_bytes(b"no database" * 100)
    damaged_file = sqlite3.connect(tmp_path / "b.db")
    with pytest.raises(sqlite3.DatabaseError) as damaged:
        damaged_file.execute("SELECT * FROM sqlite_schema")
    full_file = sqlite3.connect(tmp_path / "c.db", isolation_level=None)
    full_file.execute("PRAGMA max_page_count = 1")
    with pytest.raises(sqlite3.OperationalError) as full:
        full_file.execute("CREATE TABLE t (a)")
    assert [is_passing(error.value) for error in (locked, no_table, damaged, full)] == [True, False, False, False]
    for connection in (first, second, damaged_file, full_file):
        connection.close()


def test_what_a_server_says_by_its_code():
    codes = ("57P01", "57P03", "40P01", "40001", "08006", "53300", "55P03", "53100", "28P01", "23505", "42601", "XX001")
    passing = [code for code in codes if is_passing(psycopg.errors.lookup(code)("said"))]
    assert passing == ["57P01", "57P03", "40P01", "40001", "08006", "53300", "55P03"]


@pytest.mark.parametrize(
    ("words", "passes"),
    [
        ("connection failed: Connection refused", True),
        ("connection failed: FATAL:  the database system is starting up", True),
        ("server closed the connection unexpectedly", True),
        ('connection failed: FATAL:  password authentication failed for user "a"', False),
        ('connection failed: FATAL:  database "a" does not exist', False),
        ('connection failed: FATAL:  no pg_hba.conf entry for host "a"', False),
    ],
)
def test_what_a_server_says_in_words(words, passes):
    assert is_passing(psycopg.OperationalError(words)) == passes


def test_other_errors_do_not_pass():
    assert not is_passing(OSError(errno.ENOSPC, "full"))
