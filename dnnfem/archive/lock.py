"""One writer at a time: a lock of the operating system, which releases it when the process ends, however it does.

Locks are files in a folder for temporary ones, so that there is nothing beside the archive.  On another machine, where
the same archive may be on a shared disk, they are not seen; there `dnnfem.archive.container` finds that the file is not
the one that it has written.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
import threading
import weakref
from itertools import count
from pathlib import Path
from typing import Any

from dnnfem.archive.container import ArchiveError, check_place, tidy

try:
    import fcntl
except ImportError:
    # There are no locks of this kind on Windows; a run whose file has changed stops there too.
    fcntl = None  # type: ignore[assignment]

TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
"""What the operating system says if another process has the lock; anything else means that it has no locks there."""


def _try(descriptor: int) -> None:
    """Lock a file, or raise an `OSError` at once."""
    if fcntl is None:
        raise OSError(errno.ENOLCK, "no locks")
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


_guard = threading.RLock()
_held: dict[Path, tuple[int, set[int]]] = {}
"""Locks of this process: descriptor, and the numbers of those that hold them."""

_numbers = count()


def lock_of(path: Path) -> Path:
    """Return the lock of an archive."""
    user = f"-{os.getuid()}" if hasattr(os, "getuid") else ""
    name = hashlib.sha256(str(path).encode()).hexdigest()[:32]
    return Path(tempfile.gettempdir()) / f"dnnfem{user}" / f"{name}.lock"


def hold(owner: object, path: Path) -> None:
    """Take the lock of an archive as long as `owner` lives; several objects of one process share it.

    Raises
    ------
    ArchiveError
        If another process has it, or there is no folder for the file.
    """
    check_place(path)
    number = next(_numbers)
    with _guard:
        while True:
            if path not in _held:
                _held[path] = _taken(path), set()
                tidy(path)
            entry = _held[path]
            entry[1].add(number)
            # A collection of garbage may have given the lock back in between.
            if _held.get(path) is entry:
                break
    weakref.finalize(owner, _release, path, number, os.getpid())


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
        except OSError as error:
            writer = os.read(descriptor, 20).decode(errors="replace") if error.errno in TAKEN else ""
            os.close(descriptor)
            if error.errno not in TAKEN:
                return -1
            raise ArchiveError(
                f"{path}: another run writes to it (process {writer or 'unknown'}); wait for its end, or choose "
                "another file name.  To look at it use dnnfem.read"
            ) from error
        try:
            # The one before may have removed the file after it was opened here.
            current = os.path.samestat(os.fstat(descriptor), os.stat(lock))
        except FileNotFoundError:
            current = False
        if current:
            os.truncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
            return descriptor
        os.close(descriptor)


def _release(path: Path, number: int, process: int) -> None:
    """Give the lock back when the last object that holds it is gone; a child that was forked has none."""
    with _guard:
        if process != os.getpid() or path not in _held:
            return
        descriptor, holders = _held[path]
        holders.discard(number)
        if holders:
            return
        del _held[path]
        if descriptor >= 0:
            lock_of(path).unlink(missing_ok=True)
            os.close(descriptor)


def _forget() -> None:
    """Leave the locks to the process that this one was forked from."""
    global _guard  # noqa: PLW0603
    # Another thread of that process may have been inside.
    _guard = threading.RLock()
    for descriptor, _ in _held.values():
        if descriptor >= 0:
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def check_alone(problem: Any) -> None:
    """Raise a `ValueError` if several processes that share a problem are about to open one archive each."""
    if getattr(problem, "backend", None) == "distributed" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("problem: got one of several processes, expected dnnfem.SharedArchive.open, in all of them")
