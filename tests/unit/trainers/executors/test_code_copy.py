"""Does a copy of a study's code hold its code, and no more?"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from trainers.errors import TrainerError
from trainers.executors import code_copy
from trainers.executors.code_copy import copy_code


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def files(folder: str) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in Path(folder).rglob("*") if path.is_file()}


def test_code_is_copied_and_data_is_not(tmp_path: Path) -> None:
    code = ["models.py", "package/deep/layers.py", "package/words.json", "study.yaml"]
    others = ["data/train.csv", "best.ckpt", "hpo.db", ".git/hook.py", ".token.json", "package/__pycache__/x.py"]
    write(tmp_path, *code, *others, "venv/pyvenv.cfg", "venv/lib/torch.py")
    (tmp_path / ".#models.py").symlink_to("me@here:1")  # an editor's lock
    copy = copy_code(tmp_path)
    assert files(copy) == {name: name for name in code}
    shutil.rmtree(copy)


def test_a_folder_that_is_no_project_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_copy, "MOST_FILES", 2)
    write(tmp_path, "a.py", "b.py", "c.py")
    with pytest.raises(TrainerError, match=r"more than 2 files .* a folder of their own"):
        copy_code(tmp_path)
