"""Is this path on a network file system, where SQLite loses data?

SQLite needs locks and a shared memory file that every process sees at once. Over a network the locks may be missing or
pretended, and the shared memory is not shared between machines: two writers then damage the file.
"""

import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")  # Linux; elsewhere nothing is known, and nothing is refused

NETWORK_TYPES = frozenset(
    [
        "nfs",
        "nfs3",
        "nfs4",
        "cifs",
        "smb2",
        "smb3",
        "smbfs",
        "ncpfs",
        "ncp",
        "afs",
        "openafs",
        "coda",
        "afpfs",
        "webdav",
        "davfs",
        "davfs2",
        "ceph",
        "glusterfs",
        "lustre",
        "gpfs",
        "beegfs",
        "fhgfs",
        "pvfs2",
        "orangefs",
        "panfs",
        "wekafs",
        "moosefs",
        "lizardfs",
        "juicefs",
        "quobyte",
        "ocfs2",
        "gfs",
        "gfs2",
        "acfs",
    ]
)
NETWORK_FUSE = frozenset(  # as `fuse.NAME`, or as the source of a plain `fuse`
    [
        "sshfs",
        "s3fs",
        "goofys",
        "gcsfuse",
        "mount-s3",
        "mountpoint-s3",
        "rclone",
        "blobfuse",
        "blobfuse2",
        "juicefs",
        "seaweedfs",
        "davfs",
        "davfs2",
        "curlftpfs",
        "smbnetfs",
        "glusterfs",
        "ceph",
        "ceph-fuse",
        "cephfs",
        "beegfs",
        "moosefs",
        "mfs",
        "lizardfs",
        "quobyte",
        "geesefs",
        "alluxio-fuse",
        "afpfs",
        "hdfs",
    ]
)


def network_file_system(path: Path, *, mountinfo: str | None = None) -> str | None:
    """The type of the network file system that `path` is on, such as nfs4; None when it is on none, as far as is known.

    path: absolute, with its symbolic links resolved; it need not exist. mountinfo: what /proc/self/mountinfo says.
    """
    if mountinfo is None:
        try:
            mountinfo = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return None
    found: tuple[int, str | None] = (-1, None)
    for line in mountinfo.splitlines():
        mount = _mount(line)
        if mount is not None and path.is_relative_to(mount[0]) and len(mount[0].parts) >= found[0]:
            found = (len(mount[0].parts), mount[1])  # of mounts on the same folder the last one hides the others
    return found[1]


def why_not_there(path: Path) -> str | None:
    """Why a SQLite history must not be at `path`, and what to do; None when it may."""
    network = network_file_system(path)
    if network is None:
        return None
    return (
        f"{path.parent} is on a network file system ({network}), on which SQLite loses data.\n"
        "Put it on a local disk (--storage sqlite:////local/disk/hpo.db), or use PostgreSQL, which many machines can "
        "share (--storage postgresql://user@host/database); `hpo db backup` and `hpo db restore` move a history there."
    )


def _mount(line: str) -> tuple[Path, str | None] | None:
    """Where a line of mountinfo mounts something, and its type if that is a network's; None for no such line.

    `36 35 98:0 / /mnt/data rw,noatime shared:1 - ext4 /dev/sdb rw`; the number of fields before the dash varies.
    """
    before, dash, after = line.partition(" - ")
    fields, (kind, source, *_) = before.split(" "), [*after.split(" "), "", ""]
    if not dash or len(fields) < 5:
        return None
    return Path(_unescaped(fields[4])), kind if _is_network(kind.lower(), source.lower()) else None


def _is_network(kind: str, source: str) -> bool:
    if kind == "fuse":
        return re.split("[:#]", source)[0] in NETWORK_FUSE
    return kind in NETWORK_TYPES or (kind.startswith("fuse.") and kind.removeprefix("fuse.") in NETWORK_FUSE)


def _unescaped(text: str) -> str:
    r"""A path without the octal escapes (\040 for a space) of mountinfo."""
    return re.sub(r"\\([0-7]{3})", lambda escape: chr(int(escape[1], 8)), text)
