"""The file itself: written as a whole beside the old one, checked as a whole before it is opened.

An archive is an HDF5 file with a user block of 512 bytes in front, which HDF5 tools skip.  The block names the format
and holds the SHA-256 of everything after it, so that a truncated or damaged file is found before the HDF5 library reads
a byte of it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

MAGIC = b"dnnfem archive\n"
VERSION = 1
BLOCK = 512
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


class ArchiveError(ValueError):
    """A file that cannot be used as asked; the message says which, why, and what to do.  The file is left as it is."""


def check(path: Path) -> None:
    """Raise an `ArchiveError` unless `path` is an undamaged archive of a version that can be read."""
    if path.is_dir():
        raise ArchiveError(f"{path}: a directory, expected a file; append its name")
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
        if hashlib.file_digest(file, "sha256").hexdigest().encode() != fields.get(b"sha256"):
            raise ArchiveError(
                f"{path}: truncated or damaged (its checksum does not fit); restore it from a copy or start anew"
            )


@contextmanager
def reading(path: Path) -> Iterator[h5py.File]:
    """Open a checked archive for reading."""
    check(path)
    with h5py.File(path, "r") as file:
        yield file


@contextmanager
def writing(path: Path, create: bool = False) -> Iterator[h5py.File]:
    """Change an archive atomically: the change is made in a copy, which replaces the file once it is on the disk.

    If anything fails the copy is removed and the file stays as it was.
    """
    if not path.parent.is_dir():
        raise ArchiveError(f"{path}: there is no folder {path.parent}, expected an existing one; create it first")
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        if not create:
            check(path)  # a damaged file must not get a new checksum
            beside.write_bytes(path.read_bytes())
        with h5py.File(beside, "w" if create else "r+", userblock_size=BLOCK if create else None) as file:
            yield file
        with open(beside, "r+b") as raw:
            raw.seek(BLOCK)
            digest = hashlib.file_digest(raw, "sha256").hexdigest()
            head = MAGIC + b"version %d\n" % VERSION + b"sha256 " + digest.encode() + b"\n"
            raw.seek(0)
            raw.write(head.ljust(BLOCK, b"\0"))
            raw.flush()
            os.fsync(raw.fileno())
        os.replace(beside, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        beside.unlink(missing_ok=True)
