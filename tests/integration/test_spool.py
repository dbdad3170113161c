"""Does every result that was kept on disk reach its history, once, whatever happens on the way?"""

import json
import math
import os
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState
from sqlalchemy import select

from storage import history, spool
from storage.errors import StaleAttemptError, StoreUnavailableError
from storage.models import outbox, trials
from storage.schema import Store, open_store
from storage.spool import Finish, Release, Report, Result, Spool, tell
from storage.studies import Claim, claim_trial, create_study, release_trial

CREATED = 1_760_000_000.125


@pytest.fixture
def study(store):
    study_id = create_study(store, name="digits", metric="val_loss", mlflow_uri="http://127.0.0.1:9")
    return history.get_study(store, "digits"), study_id


@pytest.fixture
def kept(tmp_path):
    return Spool(tmp_path / "runs" / "spool", fallback=tmp_path / "fallback")


def claimed(store, study, worker="worker"):
    return claim_trial(store, study[1], worker=worker, lease_seconds=60, max_trials=None)


def result_of(study, claim, value=0.5, **changes):
    end = Finish(state=TrialState.COMPLETE, value=value, cost_seconds=3.0, epochs=2, checkpoint="/runs/a.ckpt")
    content = {
        "end": end,
        "reports": [Report(step=0, value=0.9, metrics={"loss": 1.5}), Report(step=1, value=math.nan)],
    }
    created_at = study[0].created_at.timestamp()
    return Result(study="digits", study_created_at=created_at, claim=claim, **content | changes)


def recorded(store, study):
    return history.list_trials(store, study[1])


def messages(store, kind):
    with store.read() as connection:
        return connection.execute(select(outbox.c.trial_id).where(outbox.c.kind == kind)).scalars().all()


def test_a_result_is_kept_and_delivered_with_all_that_it_brought(store, study, kept):
    claim = claimed(store, study)
    path = kept.put(result_of(study, claim))
    assert kept.waiting() == [path]
    assert kept.deliver(store) == 1
    (trial,) = recorded(store, study)
    assert (trial.state, trial.value, trial.epochs, trial.cost_seconds) == (TrialState.COMPLETE, 0.5, 2, 3.0)
    assert trial.checkpoint == "/runs/a.ckpt"
    assert trial.intermediate_values[0] == 0.9 and math.isnan(trial.intermediate_values[1])
    assert kept.waiting() == [] == kept.damaged()
    assert kept.deliver(store) == 0


def test_it_ended_when_it_ended_not_when_it_was_delivered(store, study, kept):
    end = Finish(state=TrialState.PRUNED, value=1.0, finished_at=CREATED)
    kept.put(result_of(study, claimed(store, study), end=end))
    kept.deliver(store)
    assert recorded(store, study)[0].finished_at.timestamp() == CREATED


def test_failures_and_trials_given_back_are_results_too(store, study, kept):
    failed, released = claimed(store, study), claimed(store, study)
    kept.put(result_of(study, failed, end=Finish(state=TrialState.FAIL, value=None, error="nan\n\tloss")))
    kept.put(result_of(study, released, end=Release(reason="interrupted", counts=True)))
    assert kept.deliver(store) == 2
    first, second = recorded(store, study)
    assert (first.state, first.error) == (TrialState.FAIL, "nan\n\tloss")
    assert (second.state, second.error) == (TrialState.WAITING, "interrupted")
    assert claimed(store, study) == Claim(trial_id=second.trial_id, number=1, attempt=2)


def test_results_are_delivered_in_order(store, study, kept):
    claims = [claimed(store, study) for _ in range(12)]
    paths = [kept.put(result_of(study, claim)) for claim in claims]
    assert kept.waiting() == paths
    kept.deliver(store)
    assert messages(store, "run_finished") == [claim.trial_id for claim in claims]


def test_what_is_told_twice_is_recorded_once(store, study, kept, tmp_path):
    """As when the deliverer dies after the history took the result, and before the file is gone."""
    claim = claimed(store, study)
    path = kept.put(result_of(study, claim))
    shutil.copy(path, tmp_path / "copy")
    kept.deliver(store)
    before = recorded(store, study)
    shutil.copy(tmp_path / "copy", path)
    assert kept.deliver(store) == 1
    assert recorded(store, study) == before
    assert messages(store, "run_finished") == [claim.trial_id]


def test_a_result_that_comes_too_late_is_kept_as_late_once(store, study, kept, tmp_path):
    claim = claimed(store, study)
    path = kept.put(result_of(study, claim, value=0.25))
    shutil.copy(path, tmp_path / "copy")
    release_trial(store, claim, reason="its lease ended")
    claimed(store, study, worker="another")
    for _ in range(2):
        assert kept.deliver(store) == 1
        shutil.copy(tmp_path / "copy", path)
    (trial,) = recorded(store, study)
    (late,) = trial.system_attrs["hindsight:late_results"]
    assert (late["attempt"], late["state"], late["value"]) == (1, "COMPLETE", 0.25)
    assert trial.state == TrialState.RUNNING and not trial.intermediate_values


def test_telling_directly_says_when_it_was_too_late(store, study):
    claim = claimed(store, study)
    release_trial(store, claim, reason="its lease ended")
    with pytest.raises(StaleAttemptError):
        tell(store, result_of(study, claim))
    assert recorded(store, study)[0].system_attrs["hindsight:late_results"]


def test_results_of_other_histories_stay(store, study, kept, sqlite_url, tmp_path):
    claim = claimed(store, study)
    path = kept.put(result_of(study, claim))
    other = open_store(f"sqlite:///{tmp_path / 'other.db'}")
    assert kept.deliver(other) == 0  # it has no such trial
    create_study(other, name="digits", metric="val_loss")
    claim_trial(other, 1, worker="w", lease_seconds=60, max_trials=None)
    assert kept.deliver(other) == 0  # it has one, of a study of that name, made at another time
    other.dispose()
    assert kept.waiting() == [path]
    assert kept.deliver(store) == 1


def test_while_the_history_cannot_be_reached_everything_stays(store, study, kept):
    claim = claimed(store, study)
    path = kept.put(result_of(study, claim))
    with pytest.raises(StoreUnavailableError):
        kept.deliver(Store("postgresql://user@127.0.0.1:9/name"))
    assert kept.waiting() == [path]
    assert kept.deliver(store) == 1


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
def test_a_record_that_was_cut_is_set_aside_and_the_others_are_delivered(store, study, kept, share):
    first, second = (kept.put(result_of(study, claimed(store, study))) for _ in range(2))
    whole = first.read_bytes()
    first.write_bytes(whole[: int(len(whole) * share)])
    assert kept.deliver(store) == 1
    (damaged,) = kept.damaged()
    assert damaged.stem == first.stem and not first.exists() and not second.exists()
    assert [trial.state for trial in recorded(store, study)] == [TrialState.RUNNING, TrialState.COMPLETE]


def test_a_record_that_can_never_be_told_is_set_aside(store, study, kept):
    kept.put(result_of(study, claimed(store, study), value=math.nan))
    assert kept.deliver(store) == 0
    assert len(kept.damaged()) == 1 and not kept.waiting()


def test_a_record_of_a_newer_program_stays(store, study, kept, monkeypatch):
    monkeypatch.setattr(spool, "VERSION", 2)
    path = kept.put(result_of(study, claimed(store, study)))
    monkeypatch.undo()
    assert kept.deliver(store) == 0
    assert kept.waiting() == [path] and not kept.damaged()


def test_a_draft_that_a_crash_left_is_no_record(kept, store, study):
    path = kept.put(result_of(study, claimed(store, study)))
    (path.parent / f".{path.name}.0123456789ab.draft").write_text("half a rec")
    assert kept.waiting() == [path]
    assert kept.deliver(store) == 1 and not kept.damaged()


def test_many_processes_deliver_each_result_once(store, study, kept, in_processes):
    claims = [claimed(store, study) for _ in range(40)]
    for claim in claims:
        kept.put(result_of(study, claim))

    def deliver(_index):
        own = Store(store.url)
        delivered = 0
        while kept.waiting():
            delivered += kept.deliver(own)
        own.dispose()
        return delivered

    assert sum(in_processes(deliver, 4)) == 40
    assert sorted(messages(store, "run_finished")) == sorted(claim.trial_id for claim in claims)
    assert {trial.state for trial in recorded(store, study)} == {TrialState.COMPLETE}


def test_many_processes_put_results_at_once(store, study, kept, in_processes):
    claims = [[claimed(store, study) for _ in range(5)] for _ in range(4)]
    in_processes(lambda index: [str(kept.put(result_of(study, claim))) for claim in claims[index]], 4)
    assert kept.deliver(store) == 20


# Where results are kept


def test_a_full_disk_sends_them_to_the_fallback(sqlite_store, small_disk, tmp_path):
    study_id = create_study(sqlite_store, name="digits", metric="val_loss")
    study = history.get_study(sqlite_store, "digits"), study_id
    (small_disk / "ballast").write_bytes(bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize))
    kept = Spool(small_disk / "spool", fallback=tmp_path / "fallback")
    path = kept.put(result_of(study, claimed(sqlite_store, study)))
    assert path.parent == tmp_path / "fallback"
    assert path.parent.stat().st_mode & 0o077 == 0  # nobody else reads or writes there
    assert kept.deliver(sqlite_store) == 1


def test_a_folder_that_cannot_be_made_sends_them_to_the_fallback(sqlite_store, tmp_path):
    study_id = create_study(sqlite_store, name="digits", metric="val_loss")
    study = history.get_study(sqlite_store, "digits"), study_id
    (tmp_path / "runs").write_text("a file is in the way")
    kept = Spool(tmp_path / "runs" / "spool", fallback=tmp_path / "fallback")
    assert kept.waiting() == []
    assert kept.put(result_of(study, claimed(sqlite_store, study))).parent == tmp_path / "fallback"
    assert kept.deliver(sqlite_store) == 1


def test_where_no_disk_takes_them_it_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    kept = Spool(tmp_path / "file" / "spool", fallback=tmp_path / "file" / "fallback")
    result = Result(
        study="s", study_created_at=0.0, claim=Claim(trial_id=1, number=0, attempt=1), end=Release(reason="interrupted")
    )
    with pytest.raises(OSError, match="file"):
        kept.put(result)


def test_a_folder_of_somebody_else_is_neither_used_nor_believed(sqlite_store, tmp_path, monkeypatch):
    """In the folder for temporary files anybody may make folders."""
    study_id = create_study(sqlite_store, name="digits", metric="val_loss")
    study = history.get_study(sqlite_store, "digits"), study_id
    theirs = Spool(tmp_path / "one", fallback=tmp_path / "two")
    theirs.put(result_of(study, claimed(sqlite_store, study)))
    owner = (tmp_path / "one").stat().st_uid
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    if owner == 0:  # what the administrator made is believed
        os.chown(tmp_path / "one", 12345, -1)
    assert theirs.waiting() == []
    assert theirs.deliver(sqlite_store) == 0


# What is in a file

names = st.text(max_size=20)
numbers = st.floats(allow_nan=False)
reports = st.builds(
    Report, step=st.integers(-(2**53), 2**53), value=numbers, metrics=st.dictionaries(names, numbers, max_size=3)
)
ends = st.one_of(
    st.builds(Release, reason=names, counts=st.booleans()),
    st.builds(
        Finish,
        state=st.sampled_from([TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]),
        value=st.none() | numbers,
        more_values=st.lists(numbers, max_size=2).map(tuple),
        measured=st.dictionaries(names, numbers, max_size=2),
        notes=st.lists(names, max_size=2).map(tuple),
        cost_seconds=st.none() | numbers,
        epochs=st.none() | st.integers(0, 2**31),
        checkpoint=st.none() | names,
        error=st.none() | names,
        finished_at=st.none() | numbers,
    ),
)
results = st.builds(
    Result,
    study=names,
    study_created_at=numbers,
    claim=st.builds(Claim, trial_id=st.integers(1), number=st.integers(0), attempt=st.integers(1)),
    end=ends,
    reports=st.lists(reports, max_size=3).map(tuple),
)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("records") / "record.json"


@given(result=results)
def test_reading_is_the_inverse_of_writing(file, result):
    file.write_text(spool._written(result), encoding="utf-8")
    assert spool._read(file) == result


@settings(max_examples=200)
@given(result=results, data=st.data())
def test_damage_anywhere_is_noticed(file, result, data):
    whole = spool._written(result).encode()
    place = data.draw(st.integers(0, len(whole) - 1))
    damaged = data.draw(
        st.sampled_from(
            [whole[:place], whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :], bytes(len(whole))]
        )
    )
    file.write_bytes(damaged)
    if damaged == whole.removesuffix(b"\n"):
        assert spool._read(file) == result
    else:
        with pytest.raises(ValueError, match="cut short"):
            spool._read(file)


def test_a_record_can_be_read_by_a_person(kept, store, study):
    _, line = kept.put(result_of(study, claimed(store, study))).read_text().splitlines()
    content = json.loads(line)
    assert content["study"] == "digits" and content["end"]["value"] == 0.5
    with store.read() as connection:
        assert content["claim"]["trial_id"] == connection.execute(select(trials.c.id)).scalar_one()
