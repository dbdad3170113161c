"""Is a network file system recognised by what the kernel says about its mounts?"""

from pathlib import Path

import pytest

from storage import filesystems
from storage.database import Store
from storage.errors import StoreUnavailableError
from storage.filesystems import NETWORK_FUSE, NETWORK_TYPES, network_file_system, why_not_there

ROOT = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard"
HOME = "36 27 0:50 / /home rw,relatime shared:1 master:7 - nfs4 server:/export/home rw,vers=4.2,addr=10.0.0.1"
SCRATCH = "37 36 8:1 / /home/ann/scratch rw - xfs /dev/sdb1 rw"
SPACE = r"38 27 0:51 / /data/two\040words rw - cifs //server/share rw"


def mounted(kind: str, source: str = "source", *, at: str = "/data") -> str:
    return f"{ROOT}\n40 27 0:60 / {at} rw,nosuid - {kind} {source} rw"


@pytest.mark.parametrize("kind", [*sorted(NETWORK_TYPES), *(f"fuse.{name}" for name in sorted(NETWORK_FUSE))])
def test_network_file_systems(kind):
    assert network_file_system(Path("/data/runs/hpo.db"), mountinfo=mounted(kind)) == kind


@pytest.mark.parametrize(
    "kind",
    ["9p", "overlay", "ext4", "xfs", "btrfs", "zfs", "tmpfs", "virtiofs", "vfat", "fuseblk", "fuse.ntfs-3g", "fuse"],
)
def test_local_file_systems(kind):
    assert network_file_system(Path("/data/runs/hpo.db"), mountinfo=mounted(kind)) is None


def test_those_that_people_have_are_among_them():
    assert {"nfs", "nfs4", "cifs", "smb3", "afs", "lustre", "gpfs", "beegfs", "ceph"} <= NETWORK_TYPES
    assert {"sshfs", "s3fs", "gcsfuse", "goofys", "rclone"} <= NETWORK_FUSE


def test_a_plain_fuse_mount_is_told_by_its_source():
    path = Path("/data/hpo.db")
    assert network_file_system(path, mountinfo=mounted("fuse", "s3fs")) == "fuse"
    assert network_file_system(path, mountinfo=mounted("fuse", "JuiceFS:team")) == "fuse"
    assert network_file_system(path, mountinfo=mounted("fuse", "encfs")) is None


def test_the_closest_mount_decides():
    mounts = "\n".join([ROOT, HOME, SCRATCH, SPACE])
    answers = {
        "/home/ann/hpo.db": "nfs4",
        "/home/ann/scratch/hpo.db": None,
        "/home/ann/scratches/hpo.db": "nfs4",
        "/homes/hpo.db": None,
        "/data/two words/hpo.db": "cifs",
        "/data/two/hpo.db": None,
    }
    assert {path: network_file_system(Path(path), mountinfo=mounts) for path in answers} == answers


def test_the_last_mount_on_a_folder_hides_the_others():
    below, above = mounted("nfs"), "41 40 0:61 / /data rw - tmpfs tmpfs rw"
    assert network_file_system(Path("/data/hpo.db"), mountinfo=f"{below}\n{above}") is None


def test_lines_that_are_no_mounts_are_passed_over():
    strange = "\n".join(["", "nonsense", "1 2 3 - ext4", r"1 2 3:4 / /\9 rw - ext4 a rw", HOME, "39 - "])
    assert network_file_system(Path("/home/hpo.db"), mountinfo=strange) == "nfs4"


def test_where_nothing_is_known_nothing_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(filesystems, "MOUNTS", tmp_path / "no such file")
    assert why_not_there(tmp_path / "hpo.db") is None


def test_a_history_there_is_refused_with_the_reason_and_what_to_do(tmp_path, monkeypatch):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(mounted("nfs4", at=str(tmp_path / "team")))
    monkeypatch.setattr(filesystems, "MOUNTS", mounts)
    (tmp_path / "team").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "team")
    for folder in ("team", "link"):
        with pytest.raises(StoreUnavailableError, match=r"network file system \(nfs4\)") as refused:
            Store(f"sqlite:///{tmp_path / folder / 'hpo.db'}")
        assert "postgresql://" in str(refused.value) and "local disk" in str(refused.value)
    Store(f"sqlite:///{tmp_path / 'hpo.db'}")


def test_this_machines_own_mounts_can_be_read():
    assert network_file_system(Path("/proc")) is None
