"""Where a journal lives: its file, the file system under it, and the lock of its one writer."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from pathlib import Path

JOURNAL_FILE = "journal.sqlite"
MOUNTS = Path("/proc/mounts")

NETWORK_FILE_SYSTEMS = frozenset({
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "gfs2", "glusterfs", "gpfs", "lustre", "nfs", "nfs4",
    "ocfs2", "orangefs", "panfs", "pvfs2", "smb", "smb2", "smb3", "smbfs", "vboxsf", "virtiofs", "wekafs",
})  # fmt: skip
LOCAL_FUSE = frozenset({"fuse.bindfs", "fuse.fuse-overlayfs", "fuse.mergerfs", "fuse.lxcfs"})

_LOCK_ATTEMPTS = 5  # a reader that looks whether the run lives holds the lock for microseconds
_LOCK_PAUSE_SECONDS = 0.05


class JournalError(RuntimeError):
    """The journal cannot be opened, written or read; the message says why and what helps."""


def journal_path(run: str | Path) -> Path:
    """The journal of ``run``, which may be the run's folder or the journal file itself."""
    path = Path(run)
    if path.is_file() or (path.suffix == ".sqlite" and not path.is_dir()):
        return path
    return path / JOURNAL_FILE


def network_file_system(path: Path, mounts: Path = MOUNTS) -> str | None:
    """The type of the network file system that holds ``path``, or None where it is local or unknown.

    SQLite's write-ahead log shares memory between processes, which no network file system gives.
    Every FUSE type counts as network but those known to be local, since most are (sshfs, s3fs, gcsfuse).
    """
    try:
        table = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    target = Path(os.path.realpath(path))
    best, kind = -1, ""
    for fields in (line.split() for line in table):
        if len(fields) < 3:
            continue
        point = Path(_unescape(fields[1]))
        depth = len(point.parts)
        if depth >= best and (point == target or point in target.parents):  # a later mount covers an earlier
            best, kind = depth, fields[2]
    is_network = kind in NETWORK_FILE_SYSTEMS or (kind.startswith("fuse.") and kind not in LOCAL_FUSE)
    return kind if is_network else None


def _unescape(field: str) -> str:
    """Undo the octal escapes of the mount table (a space is ``\\040``)."""
    for code, character in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        field = field.replace(code, character)
    return field


class WriterLock:
    """The claim of one process to write one journal, held until it closes or dies.

    It is an ``flock`` on a file beside the journal: the kernel drops it with the process, so a killed
    run never blocks its successor, whatever the file still says. The text inside only names the holder.
    A forked child (a data loader's worker) must call ``forget``, or its copy would outlive the parent.

    Raises JournalError if another writer holds it. Where the file system knows no locks, ``held`` is
    False and nothing is refused.
    """

    def __init__(self, journal: Path) -> None:
        self.path = lock_path(journal)
        self.held = True
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            self._acquire(journal)
        except BaseException:
            self.forget()
            raise

    def _acquire(self, journal: Path) -> None:
        for attempt in range(_LOCK_ATTEMPTS):
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == _LOCK_ATTEMPTS - 1:
                    raise JournalError(
                        f"{journal}: another run is writing this journal ({self._holder()}); "
                        "stop it, or give this run a folder of its own"
                    ) from None
                time.sleep(_LOCK_PAUSE_SECONDS)
            except OSError:  # ENOLCK, ENOTSUP: Lustre without -o flock, some FUSE
                self.held = False
                return
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def _holder(self) -> str:
        return os.pread(self._descriptor, 200, 0).decode("utf-8", "replace").strip() or "holder unknown"

    def forget(self) -> None:
        """Close this process's copy; the lock itself goes when the last copy does."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def lock_path(journal: Path) -> Path:
    """The lock file of a journal."""
    return journal.with_name(journal.name + ".lock")


def is_being_written(journal: Path) -> bool:
    """Whether a living process holds the writer's lock of ``journal``."""
    try:
        descriptor = os.open(lock_path(journal), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False
