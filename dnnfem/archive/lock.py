"""One writer at a time: a lock of the operating system, which releases it when the process ends, however it does.

Locks are files in a folder for temporary ones, so that there is nothing beside the archive.  On another machine, where
the same archive may be on a shared disk, they are not seen; there `dnnfem.archive.container` finds that the file is not
the one that it has written.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import tempfile
import threading
import weakref
from pathlib import Path

from dnnfem.archive.container import ArchiveError, check_place, tidy

if sys.platform == "win32":
    import msvcrt

    def _try(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _try(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
"""What the operating system says if another process has the lock; anything else means that it has no locks there."""

_guard = threading.RLock()
_held: dict[Path, tuple[int, int]] = {}
"""Locks of this process: descriptor, and by how many objects they are held."""


def lock_of(path: Path) -> Path:
    """Return the lock of an archive."""
    user = f"-{os.getuid()}" if hasattr(os, "getuid") else ""
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
    return Path(tempfile.gettempdir()) / f"dnnfem{user}" / f"{name}.lock"


def hold(owner: object, path: Path) -> None:
    """Take the lock of an archive as long as `owner` lives; several objects of one process share it.

    Raises
    ------
    ArchiveError
        If another process has it, or there is no folder for the file.
    """
    check_place(path)
    path = path.resolve()
    with _guard:
        descriptor, count = _held.get(path) or (_taken(path), 0)
        if count == 0:
            tidy(path)
        _held[path] = descriptor, count + 1
    weakref.finalize(owner, _release, path)


def _taken(path: Path) -> int:
    """Return the descriptor of the locked file; -1 where there are no locks."""
    lock = lock_of(path)
    while True:
        try:
            lock.parent.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            return -1
        try:
            _try(descriptor)
            # The one before may have removed the file after it was opened here.
            if lock.exists() and os.path.samestat(os.fstat(descriptor), lock.stat()):
                os.truncate(lock, 0)
                os.write(descriptor, str(os.getpid()).encode())
                return descriptor
        except OSError as error:
            if error.errno not in TAKEN:
                return descriptor
            writer = lock.read_text() or "unknown"
            os.close(descriptor)
            raise ArchiveError(
                f"{path}: another run writes to it (process {writer}); wait for its end, or choose another file name. "
                "To look at it use dnnfem.read"
            ) from error
        os.close(descriptor)


def _release(path: Path) -> None:
    with _guard:
        descriptor, count = _held[path]
        if count > 1:
            _held[path] = descriptor, count - 1
            return
        del _held[path]
        if descriptor >= 0:
            lock_of(path).unlink(missing_ok=True)
            os.close(descriptor)
