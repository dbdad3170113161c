"""Is there always a checkpoint that can be relied on, and never one that cannot?"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hpo.running.attempts import drop_checkpoints
from trainers.fitting.checkpoints import (
    FROM_THE_BEGINNING,
    RECORD,
    Keeper,
    announce,
    await_announced,
    clear,
    digest,
    find_start,
    identity_of,
)
from trainers.job import BEST_CHECKPOINT, COMPRESSED_MODEL, FitJob, TrainerConfig

MINE = "mine"


def save(keeper: Keeper, epoch: int, *, is_best: bool = False, as_folder: bool = False) -> None:
    draft = keeper.draft(epoch)
    if as_folder:
        (draft / "shards").mkdir(parents=True)
        (draft / "shards" / "0").write_text(f"weights of epoch {epoch}")
        (draft / "metadata").write_text("two files")
    else:
        draft.write_text(f"weights of epoch {epoch}")
    keeper.keep(epoch, is_best=is_best)
    keeper.settle()


def attempt(root: Path, number: int) -> Path:
    folder = root / f"attempt-{number}"
    folder.mkdir()
    return folder


def text(checkpoint: Path | None) -> str:
    assert checkpoint is not None
    return (checkpoint / "shards" / "0" if checkpoint.is_dir() else checkpoint).read_text()


def trained(root: Path, number: int = 1, *, best: int = 1, epochs: int = 4, as_folder: bool = False) -> Path:
    """The folder of an attempt that was ended after so many epochs."""
    keeper = Keeper(folder := attempt(root, number), identity=MINE)
    for epoch in range(epochs):
        save(keeper, epoch, is_best=epoch <= best, as_folder=as_folder)
    return folder


@pytest.mark.parametrize("as_folder", [False, True])
def test_the_newest_two_and_the_best_are_kept(tmp_path: Path, as_folder: bool) -> None:
    folder = trained(tmp_path, as_folder=as_folder)
    names = ["best.ckpt", RECORD, "epoch-1.ckpt", "epoch-2.ckpt", "epoch-3.ckpt"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert text(folder / "best.ckpt") == "weights of epoch 1"


@pytest.mark.parametrize("best", [1, 3])
def test_the_best_epoch_is_not_there_twice(tmp_path: Path, best: int) -> None:
    folder = trained(tmp_path, best=best)
    assert (folder / "best.ckpt").samefile(folder / f"epoch-{best}.ckpt")


def test_a_best_epoch_that_is_damaged_leaves_the_best_one_before(tmp_path: Path) -> None:
    earlier, folder = trained(tmp_path, best=1), attempt(tmp_path, 2)
    save(Keeper(earlier, identity=MINE), 4, is_best=True)
    damage(earlier / "epoch-4.ckpt")  # which is best.ckpt as well
    assert find_start(folder, identity=MINE, earlier=[earlier]).epoch == 3
    assert text(folder / "best.ckpt") == "weights of epoch 1"


@pytest.mark.parametrize("as_folder", [False, True])
def test_the_next_attempt_goes_on_from_the_newest_and_has_the_best(tmp_path: Path, as_folder: bool) -> None:
    earlier, folder = trained(tmp_path, as_folder=as_folder), attempt(tmp_path, 2)
    start = find_start(folder, identity=MINE, earlier=[earlier])
    assert (start.epoch, start.checkpoint) == (3, folder / "epoch-3.ckpt")
    assert start.notices == ("went on after epoch 3 of attempt-1",)
    assert text(start.checkpoint) == "weights of epoch 3"
    assert text(folder / "best.ckpt") == "weights of epoch 1"
    keeper = Keeper(folder, identity=MINE, earlier=[earlier])
    save(keeper, 4, as_folder=as_folder)
    assert not any(earlier.iterdir())  # what it went on from is not kept twice
    third = attempt(tmp_path, 3)
    assert find_start(third, identity=MINE, earlier=[earlier, folder]).epoch == 4
    assert text(third / "best.ckpt") == "weights of epoch 1"


def damage(checkpoint: Path) -> None:
    with checkpoint.open("r+b") as file:
        file.truncate(5)


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    earlier, folder = trained(tmp_path), attempt(tmp_path, 2)
    damage(earlier / "epoch-3.ckpt")
    start = find_start(folder, identity=MINE, earlier=[earlier])
    assert start.epoch == 2
    assert start.notices[0].startswith("attempt-1's checkpoint of epoch 3 is not used: epoch-3.ckpt is damaged")
    assert not (folder / "epoch-3.ckpt").exists()


@pytest.mark.parametrize(
    ("gone", "start_epoch"),
    [
        (["epoch-3.ckpt"], 2),
        (["best.ckpt"], 3),  # it is epoch 2's, which is there by its other name
        (["best.ckpt", "epoch-2.ckpt"], None),  # nothing could be shown for the best value
    ],
)
def test_what_is_gone_is_passed_over(tmp_path: Path, gone: list[str], start_epoch: int | None) -> None:
    earlier, folder = trained(tmp_path, best=2), attempt(tmp_path, 2)
    for name in gone:
        (earlier / name).unlink()
    assert find_start(folder, identity=MINE, earlier=[earlier]).epoch == start_epoch


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "cannot be read"),
        ("[]", "is damaged"),
        ('{"version": 1, "identity": "mine", "kept": [{"last": 3}]}', "is damaged"),
        ('{"version": 99}', "of another version"),
    ],
)
def test_a_damaged_record_is_passed_over(tmp_path: Path, content: str, told: str) -> None:
    oldest, earlier, folder = trained(tmp_path), trained(tmp_path, 2, epochs=6), attempt(tmp_path, 3)
    (earlier / RECORD).write_text(content)
    start = find_start(folder, identity=MINE, earlier=[oldest, earlier])
    assert start.epoch == 3
    assert told in start.notices[0]
    assert "attempt-2" in start.notices[0]


def test_checkpoints_of_something_else_are_not_used(tmp_path: Path) -> None:
    start = find_start(attempt(tmp_path, 2), identity="another", earlier=[trained(tmp_path)])
    assert start.checkpoint is None
    assert "of another model, other parameters or other settings" in start.notices[0]


def test_without_earlier_attempts_nothing_is_said(tmp_path: Path) -> None:
    start = find_start(attempt(tmp_path, 2), identity=MINE, earlier=[tmp_path / "attempt-1"])
    assert (start.checkpoint, start.notices) == (None, ())


@pytest.mark.parametrize("step", range(5))
def test_a_crash_between_any_two_steps_leaves_a_checkpoint(
    tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`keep` renames twice, or three times when the epoch is the best; the process ends at one of them."""
    earlier, folder = trained(tmp_path, best=0), attempt(tmp_path, 2)
    left = [step]

    def replace(source: Path, target: Path) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        os.rename(source, target)  # noqa: PTH104 - Path's is what is being replaced here

    keeper = Keeper(earlier, identity=MINE)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", replace)
        try:
            save(keeper, 4, is_best=True)
        except KeyboardInterrupt:
            assert step < 3
    start = find_start(folder, identity=MINE, earlier=[earlier])
    assert start.epoch == (3 if step < 2 else 4)
    assert text(start.checkpoint) == f"weights of epoch {start.epoch}"
    assert text(folder / "best.ckpt") == ("weights of epoch 0" if step < 2 else "weights of epoch 4")


def test_a_disk_that_takes_nothing_is_told_at_the_next_epoch(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "gone", identity=MINE)
    keeper.keep(0, is_best=True)
    with pytest.raises(FileNotFoundError):
        keeper.keep(1, is_best=True)


def test_what_a_trial_that_has_ended_leaves(tmp_path: Path) -> None:
    folder = trained(tmp_path)
    (folder / "output.log").write_text("its words")
    Keeper(folder, identity=MINE).draft(4).write_text("cut")
    for name in ("checkpoints.json.draft", "compressed.ckpt.gz", "compressed.ckpt.gz.draft"):
        (folder / name).write_text("cut")
    clear(folder, keep_best=True)
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "compressed.ckpt.gz", "output.log"]
    clear(folder, keep_best=False)
    assert [path.name for path in folder.iterdir()] == ["output.log"]
    clear(tmp_path / "nowhere", keep_best=False)


def test_other_ranks_begin_where_rank_0_does(tmp_path: Path) -> None:
    earlier, folder = trained(tmp_path), attempt(tmp_path, 2)
    starts = [find_start(folder, identity=MINE, earlier=[earlier]), FROM_THE_BEGINNING]
    with pytest.raises(FileNotFoundError, match="do the machines of a trial share the folder"):
        await_announced(folder, seconds=0.0)
    announce(starts, folder)
    assert await_announced(folder, seconds=0.0) == starts


def test_the_digest_of_a_folder_tells_names_and_content(tmp_path: Path) -> None:
    def made(name: str, content: dict[str, str]) -> str:
        for path, words in content.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_text(words)
        return digest(tmp_path / name)

    assert made("a", {"x": "1", "y/z": "2"}) == made("b", {"y/z": "2", "x": "1"})
    assert len({made("a", {}), made("c", {"x": "2", "y/z": "1"}), made("d", {"x": "1", "z": "2"})}) == 3


def test_what_may_differ_when_a_trial_goes_on() -> None:
    config = TrainerConfig(model="a.B", max_epochs=3, threads=1)
    job = FitJob(params={"lr": 0.1}, seed=0, metric="loss", direction="minimize", directory="one")
    mine = identity_of(config, job)
    assert mine == identity_of(
        TrainerConfig(model="a.B", max_epochs=3, threads=2, python_path=("/elsewhere",)),
        FitJob(**{**job.to_json(), "directory": "two"}),
    )
    assert mine != identity_of(config, FitJob(**{**job.to_json(), "params": {"lr": 0.2}}))
    assert mine != identity_of(TrainerConfig(model="a.C", max_epochs=3), job)
    assert len(mine) == 64 and json.dumps(mine)


def test_of_folds_only_the_model_that_stands_for_the_trial_stays(tmp_path: Path) -> None:
    attempt = tmp_path / "attempt-1"
    kept = [attempt / f"fold-{fold}" / name for fold in range(3) for name in (BEST_CHECKPOINT, COMPRESSED_MODEL)]
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"weights")
    drop_checkpoints(attempt)
    assert all(path.exists() for path in kept)
    drop_checkpoints(attempt, kept=str(attempt / "fold-1" / BEST_CHECKPOINT))
    assert [path for path in kept if path.exists()] == kept[2:4]
