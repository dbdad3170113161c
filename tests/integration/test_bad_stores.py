"""Is a store that is torn, full, read-only or none at all refused in a few words, with what to do, and nothing lost?"""

import ctypes
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import suppress

import pytest

from hpo.cli import main
from storage import history
from storage.database import Store
from storage.errors import StoreUnavailableError
from storage.integrity import verify
from storage.schema import open_store, upgrade
from storage.sqlite_files import wal_of
from storage.studies import claim_trial, create_study, report
from tests.filled import fill

PAGE = 4096
QUESTIONS = [("studies",), ("show", "both"), ("stats", "digits"), ("history", "list"), ("db", "check")]


@pytest.fixture
def path(sqlite_store):
    fill(sqlite_store)
    create_study(sqlite_store, name="long", task="long", metric="m", spec={"notes": "of many pages " * 1_000})
    sqlite_store.dispose()
    assert not wal_of(sqlite_store.path).exists()
    return sqlite_store.path


@pytest.fixture
def hpo(path, monkeypatch, capsys):
    """Runs a command on the store as the command line does; returns its exit code, output and errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["hpo", *arguments, "--storage", f"sqlite:///{path}"])
        before = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        finally:
            signal.signal(signal.SIGTERM, before)
        out, err = capsys.readouterr()
        assert "Traceback" not in err and "unforeseen" not in err, err
        return ended.value.code or 0, out, err

    return run


def header_overwritten(path):
    path.write_bytes(b"\0" * 100 + path.read_bytes()[100:])


def cut_in_the_middle(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 - 17])


def last_page_missing(path):
    path.write_bytes(path.read_bytes()[:-PAGE])


def pages_zeroed(path):
    content = bytearray(path.read_bytes())
    content[2 * PAGE : 30 * PAGE] = bytes(28 * PAGE)
    path.write_bytes(content)


def no_database(path):
    path.write_text("These are my notes about tuning. " * 500)


TORN = [header_overwritten, cut_in_the_middle, last_page_missing, pages_zeroed, no_database]


@pytest.mark.parametrize("tear", TORN, ids=lambda tear: tear.__name__)
def test_a_torn_file_is_refused_with_the_command_that_brings_a_backup_back(path, hpo, tear, tmp_path):
    backup = tmp_path / "backup.db"
    assert hpo("db", "backup", str(backup))[0] == 0
    truth = hpo("studies", "--json")[1]
    tear(path)
    torn = path.read_bytes()
    for question in QUESTIONS:
        code, _, err = hpo(*question)
        assert code in (0, 3), (question, err)  # what is asked for may be in the part that is whole
        if code:
            assert str(path) in err and "hpo db restore BACKUP --force" in err, err
            assert len(err.splitlines()) <= 8
    code, out, _ = hpo("db", "verify")
    assert code == 1
    assert "file" in out and "hpo db restore BACKUP --force" in out
    assert path.read_bytes() == torn
    code, out, _ = hpo("db", "restore", str(backup), "--force", "--json")
    assert code == 0
    with open(json.loads(out)["kept"], "rb") as kept:  # noqa: PTH123
        assert kept.read() == torn
    assert hpo("studies", "--json")[1] == truth
    assert hpo("db", "verify")[1].startswith("nothing wrong\n")


@pytest.mark.parametrize("tear", TORN, ids=lambda tear: tear.__name__)
def test_nothing_is_written_to_a_torn_file(path, tear):
    tear(path)
    torn, url = path.read_bytes(), f"sqlite:///{path}"
    for use in (open_store, upgrade):
        with suppress(StoreUnavailableError):  # the schema's version may be in the part that is whole
            use(url)
    assert path.read_bytes() == torn
    with pytest.raises(StoreUnavailableError, match="hpo db restore BACKUP"):
        create_study(Store(url), name="new", task="new", metric="new")
    assert path.read_bytes() == torn


def test_whichever_page_is_lost_nothing_false_is_said(path):
    """What is read is as it was, or is refused; and what is lost is found."""

    def everything():
        store = open_store(url, upgrade=False)
        try:
            studies = history.list_studies(store)
            return repr([studies, [history.list_trials(store, study.study_id) for study in studies]])
        finally:
            store.dispose()

    url, whole = f"sqlite:///{path}", path.read_bytes()
    truth, unused = everything(), free_pages(path)
    for page in range(len(whole) // PAGE):
        torn = bytearray(whole)
        torn[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)
        path.write_bytes(torn)
        answer = answer_or_refusal(everything)
        assert answer == truth or "hpo db restore BACKUP" in answer
        store = Store(url)
        assert bool(verify(store)) == (page + 1 not in unused), f"page {page}"
        store.dispose()


def answer_or_refusal(question):
    try:
        return question()
    except StoreUnavailableError as refused:
        return str(refused)


def free_pages(path):
    """The pages of a file in which nothing is, by number from 1."""
    content = path.read_bytes()
    trunk, free = int.from_bytes(content[32:36]), set()
    while trunk:
        page = content[(trunk - 1) * PAGE : trunk * PAGE]
        count = int.from_bytes(page[4:8])
        free |= {int.from_bytes(page[8 + 4 * leaf : 12 + 4 * leaf]) for leaf in range(count)}
        trunk = int.from_bytes(page[:4])
    return free


def test_an_empty_log_with_garbage_in_it_does_no_harm(path, hpo):
    truth = hpo("studies", "--json")[1]
    wal_of(path).write_bytes(os.urandom(50_000))
    assert hpo("studies", "--json")[:2] == (0, truth)
    assert hpo("db", "verify")[0] == 0
    create_study(store := Store(f"sqlite:///{path}"), name="new")
    store.dispose()
    assert len(json.loads(hpo("studies", "--json")[1])) == len(json.loads(truth)) + 1


def test_a_log_that_was_cut_loses_only_what_came_last(path, hpo):
    store = Store(f"sqlite:///{path}")
    create_study(store, name="first of the log")
    complete = wal_of(path).stat().st_size
    create_study(store, name="last of the log")
    log, file = wal_of(path).read_bytes(), path.read_bytes()
    store.dispose()
    path.write_bytes(file)
    wal_of(path).write_bytes(log[: (complete + len(log)) // 2])
    names = {study["name"] for study in json.loads(hpo("studies", "--json")[1])}
    assert "first of the log" in names and "last of the log" not in names
    assert hpo("db", "verify")[0] == 0


def test_an_emptied_file_beside_its_log_is_not_touched(path, hpo):
    """SQLite would delete the log."""
    store = Store(f"sqlite:///{path}")
    create_study(store, name="in the log")
    log = wal_of(path).read_bytes()
    store.dispose()
    path.write_bytes(b"")
    wal_of(path).write_bytes(log)
    for question in [*QUESTIONS, ("db", "upgrade"), ("db", "verify")]:
        code, out, err = hpo(*question)
        assert code == (1 if question == ("db", "verify") else 3)
        assert "has been emptied" in out + err and "Copy both away" in out + err
    assert wal_of(path).read_bytes() == log


@pytest.mark.parametrize("question", [*QUESTIONS, ("db", "verify"), ("db", "backup", "new.db"), ("sync",)])
def test_what_is_no_file_or_an_empty_one(path, hpo, question, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path.write_bytes(b"")
    code, _, err = hpo(*question)
    assert code == 3 and "there is no history in this database" in err
    path.unlink()
    code, _, err = hpo(*question)
    assert code == 2 and "there is no history at" in err
    assert not path.exists()
    path.mkdir()
    code, _, err = hpo(*question)
    assert code == 3 and "is a folder, not a file" in err


# Read-only


def as_somebody_else():
    """Give up the administrator's right to write everything."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.getuid() == 0:
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            assert libc.prctl(24, capability, 0, 0, 0) == 0  # PR_CAPBSET_DROP


COMMANDS = """
import contextlib, io, json, sys
from hpo.cli import main
answers = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["hpo", *arguments]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            answers.append([end.code or 0, out.getvalue(), err.getvalue()])
print(json.dumps(answers))
"""


@pytest.fixture
def restricted(path):
    """Runs commands as somebody who is bound by permissions, which are restored in the end."""

    def run(*commands):
        commands = [[*command, "--storage", f"sqlite:///{path}"] for command in commands]
        done = subprocess.run(
            [sys.executable, "-c", COMMANDS, json.dumps(commands)],
            env={**os.environ, "HPO_RUNS": str(path.parent / "runs")},
            preexec_fn=as_somebody_else,
            capture_output=True,
            text=True,
            check=True,
        )
        assert "Traceback" not in done.stdout and "unforeseen" not in done.stdout, done.stdout
        return json.loads(done.stdout)

    yield run
    path.parent.chmod(0o755)


READ_ONLY = {
    "file": (0o444, 0o755),
    "folder": (0o644, 0o555),
    "file and folder": (0o444, 0o555),
}


@pytest.mark.parametrize("what", READ_ONLY)
def test_what_may_only_be_read_can_be_read_verified_and_saved_but_not_written(path, restricted, what, tmp_path_factory):
    file_mode, folder_mode = READ_ONLY[what]
    path.chmod(file_mode)
    path.parent.chmod(folder_mode)
    before, backup = path.read_bytes(), tmp_path_factory.mktemp("elsewhere") / "backup.db"
    questions = [("studies", "--json"), *QUESTIONS, ("db", "verify"), ("db", "backup", str(backup))]
    *answers, refusal = restricted(*questions, ("db", "downgrade", "0001", "--yes"))
    assert [code for code, _, _ in answers] == [0] * len(questions), answers
    assert {study["name"] for study in json.loads(answers[0][1])} >= {"both", "long"}
    assert history.list_studies(Store(f"sqlite:///{backup}"))
    assert refusal[0] == 3
    assert re.search("You may read it|folder is not writable", refusal[2]), refusal
    assert path.read_bytes() == before


def test_what_somebody_else_is_writing_can_be_read_meanwhile(path, restricted):
    store = Store(f"sqlite:///{path}")
    create_study(store, name="in the log")  # and this process has the file open
    assert wal_of(path).stat().st_size
    path.parent.chmod(0o555)
    ((code, out, err),) = restricted(("studies", "--json"))
    assert code == 0, err
    assert "in the log" in {study["name"] for study in json.loads(out)}
    store.dispose()


def test_a_log_that_cannot_be_read_is_not_left_out_in_silence(path, restricted):
    """As in a snapshot of a disk: the log is there, and no place for what SQLite needs to read it."""
    store = Store(f"sqlite:///{path}")
    create_study(store, name="in the log")
    log, file = wal_of(path).read_bytes(), path.read_bytes()
    store.dispose()
    path.write_bytes(file)
    wal_of(path).write_bytes(log)
    path.parent.chmod(0o555)
    ((code, _, err),) = restricted(("studies",))
    assert code == 3
    assert "copy both files to a folder that you may write in" in err


def test_what_may_not_even_be_read(path, restricted):
    path.chmod(0o000)
    ((code, _, err),) = restricted(("studies",))
    assert code == 3 and "the right to read the file" in err


# Full


def test_a_full_disk_is_said_loses_nothing_and_is_fine_when_there_is_room_again(small_disk):
    url = f"sqlite:///{small_disk / 'history.db'}"
    with pytest.raises(StoreUnavailableError, match=r"full\nWhat was recorded before is safe. Make room on its disk"):
        open_store(url)  # a new one does not even fit
    assert not small_disk.joinpath("history.db").exists() or not sqlite_has_tables(small_disk / "history.db")


def sqlite_has_tables(path):
    with sqlite3.connect(path) as connection:
        (count,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    connection.close()
    return count > 0


def test_a_database_that_may_not_grow(sqlite_store):
    """The same, where no disk can be mounted: SQLite is told how many pages there are."""
    study = create_study(sqlite_store, name="digits", metric="val_loss")
    claim = claim_trial(sqlite_store, study, worker="w", lease_seconds=60, max_trials=None)
    with sqlite_store.write() as connection:
        (pages,) = connection.exec_driver_sql("PRAGMA page_count").one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    told = []

    def report_on():
        while True:
            report(sqlite_store, claim, step=len(told), value=0.5, metrics={"notes " * 100: 1.0})
            told.append(len(told))

    with pytest.raises(StoreUnavailableError, match="database or disk is full"):
        report_on()
    assert told
    with sqlite_store.write() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    report(sqlite_store, claim, step=len(told), value=0.5)
    (trial,) = history.list_trials(sqlite_store, study)
    assert sorted(trial.intermediate_values) == [*told, len(told)]
    assert verify(sqlite_store) == []
