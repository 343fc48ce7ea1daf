"""Which file system is a file on? The kernel's own list of mounts says so.

A ledger on a network file system is refused: locks of files (SQLite's, and those that say who owns a load) are kept
there by a server that may forget them, or not at all, and a commit may be acknowledged before it is durable. Then two
processes can both hold the last slot.

Sources: proc(5) on mountinfo; SQLite, "How To Corrupt An SQLite Database File", on file systems with broken locks.
"""

from __future__ import annotations

import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
NETWORK = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "ncpfs",
        "afs",
        "coda",
        "davfs",
        "fuse.davfs",
        "fuse.davfs2",
        "fuse.gcsfuse",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.smbnetfs",
        "fuse.sshfs",
    }
)
"""Not in the list: cluster file systems that keep locks (ceph, gfs2, ocfs2), and 9p and virtiofs, by which virtual
machines see the disk of their host: there it depends on the host, and we cannot know."""

_OCTAL = re.compile(r"\\([0-7]{3})")


def network_file_system(path: Path, mounts: Path = MOUNTS) -> str | None:
    """The kind of network file system a file is (or would be) on; None when it is on none, or nobody can say."""
    try:
        kind = _kind(path.resolve(), mounts.read_text(encoding="utf-8", errors="surrogateescape"))
    except (OSError, RuntimeError):  # another system; links in a circle, which whoever opens the file will say
        return None
    return kind if kind in NETWORK else None


def _kind(path: Path, mountinfo: str) -> str | None:
    """The type of the mount with the longest path above this one; of several at one place the last covers the rest."""
    best: tuple[int, str | None] = (0, None)
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        mounted_at = Path(_OCTAL.sub(lambda octal: chr(int(octal[1], 8)), fields[4]))
        if path.is_relative_to(mounted_at) and len(mounted_at.parts) >= best[0]:
            best = (len(mounted_at.parts), after.split(" ")[0])
    return best[1]
