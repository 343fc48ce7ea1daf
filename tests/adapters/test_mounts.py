"""Which file system a ledger is on, by lists of mounts as the kernel writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import library
from orchestrator.adapters.mounts import network_file_system
from orchestrator.config import load_config
from orchestrator.errors import LedgerUnusable

MOUNTS = r"""
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
31 27 0:40 / /mnt/office rw,relatime shared:5 master:2 - nfs4 filer:/export rw,vers=4.2
32 31 254:1 / /mnt/office/fast rw,relatime - xfs /dev/vdb rw
33 27 0:41 / /mnt/my\040share rw - cifs //server/share rw
34 27 0:42 / /home/ann/remote rw - fuse.sshfs ann@host:/ rw
35 27 0:43 / /data rw - nfs filer:/data rw
36 35 254:2 / /data rw - ext4 /dev/vdc rw
a line that nobody understands
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv/ledger.db", None),
        ("/mnt/office/state/ledger.db", "nfs4"),
        ("/mnt/officer/ledger.db", None),
        ("/mnt/office/fast/ledger.db", None),
        ("/mnt/my share/ledger.db", "cifs"),
        ("/home/ann/remote/ledger.db", "fuse.sshfs"),
        ("/data/ledger.db", None),
    ],
)
def test_a_network_file_system_is_known_by_the_mount_above_the_file(
    tmp_path: Path, path: str, kind: str | None
) -> None:
    """Its locks cannot be trusted; a local disk below it or over it can be."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS, encoding="utf-8")
    assert network_file_system(Path(path), mounts) == kind


def test_a_ledger_there_is_refused_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two machines with one ledger would each believe that they hold the last slot."""
    monkeypatch.setattr(library, "network_file_system", lambda path: "nfs4")
    (tmp_path / "ledger.db").touch()
    config = load_config(None, {"ORCHESTRATOR_STATE__LEDGER": f"sqlite:///{tmp_path / 'ledger.db'}"}, {})
    with pytest.raises(LedgerUnusable, match=r"nfs4.*\n.*local disk") as refused:
        library.status(config)
    assert refused.value.exit_code == 78


def test_where_nobody_can_say_nothing_is_refused(tmp_path: Path) -> None:
    """Other systems have no such list."""
    assert network_file_system(Path("/srv/ledger.db"), tmp_path / "missing") is None


def test_this_machine_can_run_the_tests() -> None:
    """The real list is read, whatever it holds."""
    assert network_file_system(Path("/proc/self/status")) is None
