"""The file itself: written as a whole beside the old one, checked as a whole before it is opened.

An archive is an HDF5 file with a user block of 512 bytes in front, which HDF5 tools skip.  The block names the format
and holds the SHA-256 of everything after it, so that a truncated or damaged file is found before the HDF5 library reads
a byte of it.
"""

from __future__ import annotations

import glob
import hashlib
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import h5py

MAGIC = b"dnnfem archive\n"
VERSION = 2
BLOCK = 512
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


class ArchiveError(ValueError):
    """A file that cannot be used as asked; the message says which, why, and what to do.  The file is left as it is."""


class WriteError(ArchiveError, OSError):
    """A file that could not be written: the disk is full, say, or the folder may only be read."""


def _head(version: int, digest: str) -> bytes:
    """Return the user block of a file."""
    return (MAGIC + b"version %d\nsha256 %s\n" % (version, digest.encode())).ljust(BLOCK, b"\0")


def check_place(path: str | Path) -> None:
    """Raise an `ArchiveError` if there is no folder for a file, or something else of its name, or it has none."""
    if not isinstance(path, str | os.PathLike):
        raise ArchiveError(f"path: got {path!r}, expected the name of a file")
    path = Path(path)
    if path.is_dir():
        raise ArchiveError(f"{path}: a directory, expected a file; append its name")
    if not path.parent.is_dir():
        raise ArchiveError(f"{path}: there is no folder {path.parent}, expected an existing one; create it first")


_written: dict[Path, bytes] = {}
"""The user blocks of the files that this process has opened for writing, as it knows them."""


def adopt(path: Path) -> None:
    """Take an archive as it is: from now on nobody else is to write to it."""
    _written[path] = check(path)


def check(path: str | Path) -> bytes:
    """Return the user block of an undamaged archive of a version that can be read.

    Raises
    ------
    ArchiveError
        If `path` is anything else.
    """
    check_place(path)
    with open(path, "rb") as file:
        block = file.read(BLOCK)
        if not block.startswith(MAGIC):
            foreign = "an HDF5 file of another program" if block.startswith(HDF5_SIGNATURE) else "not an HDF5 file"
            raise ArchiveError(
                f"{path}: {foreign if block else 'empty'}, expected a dnnfem archive; choose another file name"
            )
        if len(block) < BLOCK:
            raise ArchiveError(f"{path}: truncated in its first {BLOCK} bytes; restore it from a copy or start anew")
        fields = dict(line.split(b" ", 1) for line in block[len(MAGIC) :].rstrip(b"\0").splitlines() if b" " in line)
        stated = fields.get(b"version", b"")
        version = int(stated) if stated.isdigit() else 0
        if version > VERSION:
            raise ArchiveError(f"{path}: format version {version}, this library reads up to {VERSION}; update dnnfem")
        if block != _head(version, hashlib.file_digest(file, "sha256").hexdigest()) or version < 1:
            raise ArchiveError(
                f"{path}: truncated or damaged (its checksum does not fit); restore it from a copy or start anew"
            )
    return block


@contextmanager
def reading(path: str | Path) -> Iterator[h5py.File]:
    """Open a checked archive for reading.

    Raises
    ------
    ArchiveError
        If it is damaged, or lacks what is looked for: it was not written by this library.
    """
    check(path)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except KeyError as error:
        raise ArchiveError(f"{path}: an archive without what is expected there ({error.args[0]})") from error


@contextmanager
def writing(path: Path, create: bool = False) -> Iterator[h5py.File]:
    """Change an archive atomically: the change is made in a copy, which replaces the file once it is on the disk.

    If anything fails the copy is removed and the file stays as it was.

    Raises
    ------
    ArchiveError
        If the file is damaged, or cannot be written, e.g. as the disk is full.
    """
    check_place(path)
    beside = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}.new")
    try:
        with _explained(path):
            if not create:
                # A damaged file must not get a new checksum.
                block = check(path)
                if block != _written.get(path, block):
                    raise ArchiveError(
                        f"{path}: has been written by another run since this one has opened it, and stays as it is; "
                        "choose another file name for one of them"
                    )
                beside.write_bytes(path.read_bytes())
                shutil.copymode(path, beside)
            with h5py.File(beside, "w" if create else "r+", userblock_size=BLOCK if create else None) as file:
                yield file
            head = _sealed(beside)
            os.replace(beside, path)
            _written[path] = head
            _flushed(path.parent)
    finally:
        # Where nothing can be written nothing can be removed, and there is nothing.
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def tidy(path: Path) -> None:
    """Remove the copies of an archive that killed writers on this machine have left."""
    if os.name != "posix":
        return
    for left in path.parent.glob(f".{glob.escape(path.name)}.{glob.escape(platform.node())}-*.new"):
        number = left.name.removesuffix(".new").rpartition("-")[2]
        if number.isdigit() and not _runs(int(number)):
            with suppress(OSError):
                left.unlink()


def _runs(process: int) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Say of failures of the disk what they mean for an archive."""
    try:
        yield
    except ArchiveError:
        raise
    except (OSError, RuntimeError) as error:
        if not path.exists() and isinstance(error, FileNotFoundError):
            raise WriteError(f"{path}: is no longer there; restore it from a copy or start anew") from error
        # HDF5 tells long stories; the last word of the operating system is what counts.
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise WriteError(
            f"{path}: could not be written ({reason}); what has been stored before is as it was: start the run again "
            "when there is room, and it goes on from there"
        ) from error


def _sealed(path: Path) -> bytes:
    """Write the user block of a new file and return it, and see to it that all is on the disk."""
    with open(path, "r+b") as raw:
        raw.seek(BLOCK)
        head = _head(VERSION, hashlib.file_digest(raw, "sha256").hexdigest())
        raw.seek(0)
        raw.write(head)
        raw.flush()
        os.fsync(raw.fileno())
    return head


def _flushed(folder: Path) -> None:
    """See to it that the names in a folder are on the disk."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
