"""How does an uploaded table reach an import, whatever it claims to be?

A CSV or Parquet file, or a ZIP archive of such and of recorded tables. Nothing is believed of an archive: its members
are written out by their plain names, and counted while they are.
"""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from hpo.errors import SettingsError

MOST_UNPACKED_BYTES = 1 << 30
MOST_MEMBERS = 1_000
CHUNK = 1 << 20
TABLES = (".csv", ".parquet")
IN_ARCHIVES = (*TABLES, ".json")
_NAME = re.compile(r"[^\w.\- ]+")


def safe_name(name: str) -> str:
    """The last part of a file's name, without what could lead elsewhere. Raises SettingsError."""
    plain = _NAME.sub("_", re.split(r"[/\\]", name)[-1]).strip(" .")[-120:]
    if Path(plain).suffix.lower() not in (*TABLES, ".zip") or plain.startswith("."):
        raise SettingsError(f"file: {name!r:.80} is no table; send .csv, .parquet, or a .zip of recorded tables")
    return plain


def unpacked(path: Path) -> Path:
    """What is to be imported of an upload. Raises SettingsError for what is too large once it is unpacked."""
    if path.suffix.lower() == ".zip":
        return _members(path)
    if path.suffix.lower() == ".parquet":
        _check_parquet(path)
    return path


def _members(path: Path) -> Path:
    folder = path.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    left = MOST_UNPACKED_BYTES
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            if len(members) > MOST_MEMBERS:
                raise SettingsError(f"{path.name} has {len(members):,} files; at most {MOST_MEMBERS:,} are taken")
            for member in members:
                target = folder / _place(path, member.filename)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, target.open("xb") as file:
                    for chunk in iter(lambda: source.read(CHUNK), b""):
                        left -= len(chunk)
                        if left < 0:
                            raise SettingsError(
                                f"{path.name} is larger than {MOST_UNPACKED_BYTES:,} bytes once it is unpacked"
                            )
                        file.write(chunk)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        if isinstance(error, SettingsError):
            raise
        raise SettingsError(f"{path.name} cannot be unpacked: {error}") from error
    for each in _files(folder):
        if each.suffix.lower() == ".parquet":
            _check_parquet(each)
    inner = list(folder.iterdir())
    return inner[0] if len(inner) == 1 and inner[0].is_dir() else folder


def _place(path: Path, name: str) -> Path:
    """Where a member goes: by its plain name, at most two folders deep."""
    parts = PurePosixPath(name).parts
    is_plain = 0 < len(parts) <= 3 and all(part not in ("..", "/") and not _NAME.search(part) for part in parts)
    if not is_plain or Path(name).suffix.lower() not in IN_ARCHIVES:
        raise SettingsError(f"{path.name}: {name!r:.80} does not belong into an archive of tables")
    return Path(*parts)


def _files(folder: Path) -> Iterator[Path]:
    return (each for each in folder.rglob("*") if each.is_file())


def _check_parquet(path: Path) -> None:
    from pyarrow import ArrowException, parquet  # noqa: PLC0415 - slow to import

    try:
        found = parquet.read_metadata(path)
        size = sum(found.row_group(place).total_byte_size for place in range(found.num_row_groups))
    except (ArrowException, OSError) as error:
        raise SettingsError(f"{path.name} is no Parquet file: {error}") from error
    if size > MOST_UNPACKED_BYTES:
        raise SettingsError(f"{path.name} is larger than {MOST_UNPACKED_BYTES:,} bytes once it is unpacked")
