"""Runs in several processes on one or more machines: ``torchrun --nproc-per-node 2 script.py``.

Every process runs the same script on the same data.  A problem with ``backend="distributed"`` divides the points among
them: values, derivatives, products and least-squares systems are sums over all, the same in every process, and what
has the size of the coefficients is done by each.  An archive is one file that the first process writes.

Processes have to do the same: limits by steps or work are the same everywhere, limits by seconds are not.  Where they
get out of step, or one of them ends, the others end too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

import torch.distributed as dist

from dnnfem import kernels
from dnnfem.archive import Archive, Level, LevelRecord
from dnnfem.records import Array, Estimate, Index, Result, Snapshot
from dnnfem.spaces import Hierarchy, Transfer
from dnnfem.spaces.layout import NetworkSpace


def processes() -> tuple[int, int]:
    """Return the number of this process and how many there are.

    Returns
    -------
    (int, int)
        ``(0, 1)`` if it is the only one.
    """
    backend: Any = kernels.load("distributed")
    found: tuple[int, int] = backend.processes()
    return found


def _from_first(call: Callable[[], Any]) -> Any:
    """Return in all processes what a function returns in the first one, or raise what it raises there."""
    rank, count = processes()
    found: list[Any] = [None, None]
    if rank == 0:
        try:
            found[0] = call()
        except Exception as error:
            found[1] = error
    if count > 1:
        backend: Any = kernels.load("distributed")
        with backend.together():
            dist.broadcast_object_list(found, src=0)
    if found[1] is not None:
        raise found[1]
    return found[0]


class SharedArchive:
    """One `dnnfem.Archive` of several processes, with its methods, all of which every process calls.

    The first process has the file, the others get from it what is read.  A run goes on with any number of processes,
    and a process alone may use it too.  Use `open`; `problem` is that of the run, `archive` that of the first process.
    """

    def __init__(self, problem: Any, archive: Archive | None) -> None:
        self._problem, self._archive = problem, archive

    @classmethod
    def open(cls, path: str | Path, problem: Any, space: NetworkSpace, x: Array) -> SharedArchive:
        """Create the archive of a run, or resume it; see `dnnfem.Archive.open`.

        Raises
        ------
        ArchiveError, ValueError
            As there, in all processes.
        """
        own: list[Archive] = []

        def opened() -> None:
            # The first process alone compares the problem with the file.
            alone = is_dataclass(problem) and getattr(problem, "backend", None) == "distributed"
            own.append(Archive.open(path, replace(problem, backend=None) if alone else problem, space, x))

        _from_first(opened)
        return cls(problem, own[0] if own else None)

    def _told(self, call: Callable[[Archive], Any]) -> Any:
        def from_file() -> Any:
            assert self._archive is not None
            return call(self._archive)

        return _from_first(from_file)

    @property
    def level(self) -> Level:
        """The level the run is on: ``(space, x, state, quadrature, previous)``."""
        given = self._problem.quadrature

        def read(archive: Archive) -> Level:
            level = archive.level
            # The data are there in all processes.
            same = level.quadrature.hash == given.hash
            return level._replace(quadrature=None) if same else level  # type: ignore[arg-type]

        level: Level = self._told(read)
        return level._replace(quadrature=given) if level.quadrature is None else level

    def __call__(self, snapshot: Snapshot) -> None:
        """Store the progress of the solve on the present level."""
        if self._archive is not None:
            self._archive(snapshot)

    def solved(self, result: Result, estimate: Estimate) -> LevelRecord:
        """Store result and estimate of the present level; printing what is returned gives a line of the log."""
        record: LevelRecord = self._told(lambda archive: archive.solved(result, estimate))
        return record

    def refined(self, marked: Index, space: NetworkSpace, transfer: Transfer, quadrature: Any = None) -> None:
        """Append the next level."""
        self._told(lambda archive: archive.refined(marked, space, transfer, quadrature))

    @property
    def levels(self) -> list[LevelRecord]:
        """All levels as stored."""
        levels: list[LevelRecord] = self._told(lambda archive: archive.levels)
        return levels

    @property
    def hierarchy(self) -> Hierarchy:
        """Spaces and transfers of the run so far."""
        hierarchy: Hierarchy = self._told(lambda archive: archive.hierarchy)
        return hierarchy
