"""Which files of a study's folder are its code, for nodes that do not have the folder?"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from trainers.errors import TrainerError

ENDINGS = (".py", ".pyi", ".so", ".json", ".toml", ".yaml", ".yml", ".txt", ".cfg", ".ini")
MOST_FILES, MOST_BYTES = 5_000, 100 * 2**20  # heuristic: more is no project's code, but its data too, or a home folder


def copy_code(folder: Path) -> str:
    """A new folder with the code of another, without what is hidden and environments. Raises TrainerError."""
    copy = Path(tempfile.mkdtemp(prefix="hindsight-code-"))
    files = size = 0
    try:
        for place, folders, names in os.walk(folder):
            folders[:] = [name for name in folders if not _is_foreign(Path(place, name))]
            for path in (Path(place, name) for name in names if _is_code(name)):
                files, size = files + 1, size + path.stat().st_size
                if files > MOST_FILES or size > MOST_BYTES:
                    raise TrainerError(
                        f"{folder} holds more than {MOST_FILES:,} files or {MOST_BYTES >> 20} MiB of code: "
                        "put the study's file and code into a folder of their own"
                    )
                target = copy / path.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
    except BaseException:
        shutil.rmtree(copy, ignore_errors=True)
        raise
    return str(copy)


def _is_code(name: str) -> bool:
    return name.endswith(ENDINGS) and not name.startswith(".")  # such as an editor's lock, or a password


def _is_foreign(folder: Path) -> bool:
    return folder.name.startswith(".") or folder.name == "__pycache__" or (folder / "pyvenv.cfg").exists()
