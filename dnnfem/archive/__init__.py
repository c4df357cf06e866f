"""The archive of a run: one HDF5 file with the whole hierarchy, created or resumed by the same call."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import h5py
import numpy as np

from dnnfem.archive import schema
from dnnfem.archive.container import VERSION, ArchiveError, adopt, reading, writing
from dnnfem.archive.lock import check_alone, hold
from dnnfem.quadrature import Quadrature
from dnnfem.records import Array, Estimate, Index, Progress, Result, Snapshot, State, Status, Steps
from dnnfem.spaces import Hierarchy, Transfer
from dnnfem.spaces.layout import NetworkSpace, check_coefficients

__all__ = ["Archive", "ArchiveError", "Level", "LevelRecord", "read", "read_ansatz"]

PROBE_TOLERANCE = 1e-9
"""Value and derivative at the stored start must be reproduced to this relative accuracy: rounding may differ between
machines, the problem may not."""

WRITE_SHARE = 0.05
"""Largest part of the time of a solve that is spent on writing its progress."""


class Problem(Protocol):
    """What an archive needs of a problem."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Strings and arrays that tell this problem from others."""
        ...

    @property
    def quadrature(self) -> Quadrature:
        """The given quadrature."""
        ...

    def on(self, space: Any, quadrature: Quadrature | None = None) -> Any:
        """Discretize."""
        ...


class Level(NamedTuple):
    """Where a run stands: what the first lines of a loop need.

    Attributes
    ----------
    space, state, quadrature, previous : of the level; the estimate of the level before, None on the first one
    x : array, shape (dim,)
    """

    space: Any
    x: Array
    state: State
    quadrature: Quadrature
    previous: Estimate | None


def _version() -> str:
    """Return the version of the library, which may run from a folder where it is not installed."""
    try:
        return importlib.metadata.version("dnnfem")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


@dataclass(frozen=True, eq=False)
class LevelRecord:
    """A level as stored; what is not there yet is None.

    Attributes
    ----------
    number : int
    space, transfer : of the level, and from the level before
    start, x : array, shape (dim,), before and after the solve
    status, steps, estimate : of the level
    marked : int array, shape (k,): cells of the estimate
    """

    number: int
    space: NetworkSpace
    start: Array
    x: Array | None
    status: Status | None
    steps: Steps | None
    estimate: Estimate | None
    marked: Index | None
    transfer: Transfer | None

    def __str__(self) -> str:
        head = f"level {self.number}: {self.space}, {self.space.dim} coefficients"
        if self.steps is None or self.status is None or self.estimate is None:
            return f"{head}, not solved yet"
        return (
            f"{head}, {self.steps[-1].number} steps, J = {self.steps[-1].value:.4e}, estimate {self.estimate.total:.3e}"
            f" ({self.status.value.split(':')[0]})"
        )


class Archive:
    """A run on disk; use `Archive.open`.

    The object is an observer: handed to a solver, it stores the progress of the solve, as often as it can without
    taking more than a twentieth of the time.  Its `path`, `problem` and `space` are those of `open`.
    """

    def __init__(self, path: Path, problem: Problem, space: NetworkSpace | None = None) -> None:
        self.path, self.problem, self.space = path, problem, space
        self._next_write = 0.0

    @classmethod
    def open(cls, path: str | Path, problem: Problem, space: NetworkSpace, x: Array) -> Archive:
        """Create the archive of a run that starts from `x` on `space`, or resume it if the file exists.

        As long as the archive is in use no other process may write to the file; all may read it.

        Parameters
        ----------
        path : str or Path
        problem : Problem
            E.g. `dnnfem.Regression`.
        space : NetworkSpace
            Space of the first level.  The module of a `dnnfem.ModuleField` is not stored: it is taken from here.
        x : array, shape (dim,)
            Starting point of the first level.

        Raises
        ------
        ArchiveError
            If the file is not an archive, damaged, of a newer version, or of another problem or start, if another
            process writes to it, or if there is no such folder or it cannot be written to; a `ValueError`.
        ValueError
            If `x` is no finite vector of the space.
        """
        archive = cls(Path(path).resolve(), problem, space)
        x = check_coefficients(space, x, finite=True)
        check_alone(problem)
        hold(archive, archive.path)
        (archive._compare if archive.path.exists() else archive._create)(space, x)
        return archive

    def _probe(self, space: NetworkSpace, x: Array) -> Array:
        """Value and norm of the derivative at the start: a fingerprint of law, ansatz and data together."""
        linearization = self.problem.on(space, self.problem.quadrature).linearize(x)
        return np.array([linearization.value, float(np.linalg.norm(linearization.derivative))])

    def _create(self, space: NetworkSpace, x: Array) -> None:
        identity, probe = self.problem.identity, self._probe(space, x)
        with writing(self.path, create=True) as file:
            file.attrs.update(format="dnnfem archive", format_version=VERSION, library_version=_version())
            schema.write_plain(file.create_group("problem"), identity)
            file["problem"].attrs["probe"] = probe
            schema.write_ansatz(file, self.problem)
            schema.append_level(file, space, x, None, self.problem.quadrature, self.problem.quadrature)

    def _compare(self, space: NetworkSpace, x: Array) -> None:
        adopt(self.path)
        with reading(self.path) as file:
            identity, group = dict(self.problem.identity), file["problem"]
            probe = group.attrs["probe"]
            differences = [n for n in schema.identity_differences(group, identity) if n != "probe"]
            if differences:
                raise ArchiveError(
                    f"{self.path}: belongs to another problem, different in {', '.join(differences)}; "
                    "choose another file name or pass the problem that the run was started with"
                )
            first = file["levels/0000"]
            if schema.read_space(first["space"], space) != space or not np.array_equal(first["start"][()], x):
                raise ArchiveError(
                    f"{self.path}: was started from another space or other coefficients than those given; "
                    "choose another file name or pass the ones it was started with"
                )
            if not np.allclose(self._probe(space, x), probe, rtol=PROBE_TOLERANCE, atol=0.0):
                raise ArchiveError(
                    f"{self.path}: the problem gives {self._probe(space, x)} for value and derivative at the stored "
                    f"start, the archive has {probe}; was the law or the backend changed?"
                )

    @property
    def level(self) -> Level:
        """The level the run is on: ``(space, x, state, quadrature, previous)``.

        `state` makes a solver go on where the newest solve of the level stood, or return its result at once if there is
        nothing left to do; `previous` is the estimate of the level before, None on the first level.
        """
        with reading(self.path) as file:
            names = sorted(file["levels"])
            group = file["levels"][names[-1]]
            digest = group.attrs["quadrature"]
            if digest == self.problem.quadrature.hash:
                quadrature = self.problem.quadrature
            else:
                quadrature = schema.read_quadrature(file[f"quadratures/{digest}"])
            previous = schema.read_estimate(file["levels"][names[-2]]["estimate"]) if len(names) > 1 else None
            space, start = schema.read_space(group["space"], self.space), group["start"][()]
            solve = _in_progress(file, len(names) - 1)
            if solve is None and "coefficients" in group:
                solve = group
            if solve is None:
                radius = float(group.attrs["carried_radius"])
                return Level(space, start, State(radius if np.isfinite(radius) else None), quadrature, previous)
            radius_now, steps, status = schema.read_solve(solve["solver"])
            memory = schema.read_memory(solve["solver"])
            progress = Progress(solve["coefficients"][()], steps, status, memory)
            return Level(space, start, State(radius_now, progress), quadrature, previous)

    def __call__(self, snapshot: Snapshot) -> None:
        """Store the progress of the solve on the present level.

        Raises
        ------
        ValueError
            If the solve is one on another level.
        """
        progress = snapshot.state.progress
        assert progress is not None
        now = time.perf_counter()
        if now < self._next_write and progress.status is None:
            return
        with _changing(self) as file:
            number = len(file["levels"]) - 1
            _check_shape("snapshot", progress.x, file, number)
            group = file.require_group("current")
            group.attrs["level"] = number
            schema.put(group, "coefficients", progress.x)
            algebraic = snapshot.step.algebraic
            schema.write_solve(
                group.require_group("solver"), snapshot.state, progress.steps, progress.status, algebraic
            )
        self._next_write = time.perf_counter() + (time.perf_counter() - now) / WRITE_SHARE

    def solved(self, result: Result, estimate: Estimate) -> LevelRecord:
        """Store result and estimate of the present level; printing what is returned gives a line of the log.

        Raises
        ------
        ValueError
            If the result is one on another level, or the cells of the estimate are neither neurons nor numbers nor
            strings.
        """
        with _changing(self) as file:
            number = len(file["levels"]) - 1
            _check_shape("result", result.x, file, number)
            group = file[f"levels/{number:04d}"]
            schema.put(group, "coefficients", result.x)
            solver = group.require_group("solver")
            schema.write_solve(solver, _to_go_on(result), result.steps, result.status, result.algebraic)
            if "estimate" in group:
                del group["estimate"]
            schema.write_estimate(group.create_group("estimate"), estimate)
            file.pop("current", None)
            return _record(number, group, self.space)

    def refined(
        self, marked: Index, space: NetworkSpace, transfer: Transfer, quadrature: Quadrature | None = None
    ) -> None:
        """Append the next level: it starts at ``transfer(x)``, or at ``transfer.project(x)`` after coarsening.

        Raises
        ------
        ValueError
            If the present level is not solved, or has been solved on since, or the transfer does not lead from its
            space to the new one.
        """
        present = self.level
        progress = present.state.progress
        with _changing(self) as file:
            number = len(file["levels"])
            last = file[f"levels/{number - 1:04d}"]
            if "coefficients" not in last or progress is None:
                raise ValueError(f"refined: level {number - 1} is not solved yet, expected a call of solved before")
            if not np.array_equal(progress.x, last["coefficients"][()], equal_nan=True):
                raise ValueError(
                    f"refined: level {number - 1} has been solved on since its result was stored, up to step "
                    f"{progress.steps[-1].number}, expected a call of solved with the new result before"
                )
            dims = (space.dim, present.space.dim)
            if transfer.shape not in (dims, dims[::-1]):
                raise ValueError(
                    f"transfer: got shape {transfer.shape}, expected {dims} (or its reverse after coarsening)"
                )
            x = transfer(progress.x) if transfer.shape == dims else transfer.project(progress.x)
            schema.put(last, "marked", np.asarray(marked, dtype=np.int64))
            following = present.quadrature if quadrature is None else quadrature
            group = schema.append_level(file, space, x, present.state.radius, following, self.problem.quadrature)
            schema.write_transfer(group.create_group("transfer"), transfer)
            file.pop("current", None)
        self._next_write = 0.0

    @property
    def levels(self) -> list[LevelRecord]:
        """All levels as stored."""
        return read(self.path, self.space)

    @property
    def hierarchy(self) -> Hierarchy:
        """Spaces and transfers of the run so far."""
        levels = self.levels
        return Hierarchy(tuple(v.space for v in levels), tuple(v.transfer for v in levels if v.transfer is not None))


def read(path: str | Path, space: NetworkSpace | None = None) -> list[LevelRecord]:
    """Return the levels of an archive without the problem it belongs to.

    Parameters
    ----------
    path : str or Path
    space : NetworkSpace, optional
        A space of the run whose field is a `dnnfem.ModuleField`: modules are not stored, and without it networks on the
        spaces that are returned cannot be evaluated.

    Returns
    -------
    list of LevelRecord

    Raises
    ------
    ArchiveError
        If the file is not an archive, damaged or of a newer version, or `space` has a module with other parameters.
    ValueError
        If `space` is of another kind than those of the run.
    """
    with reading(path) as file:
        records = [_record(number, group, space) for number, (_, group) in enumerate(sorted(file["levels"].items()))]
    if space is not None and not any(isinstance(space, type(record.space)) for record in records):
        raise ValueError(f"space: got {space!r}, expected a {type(records[0].space).__name__}, as {path} holds")
    return records


def read_ansatz(path: str | Path) -> dict[str, Any]:
    """Return plain data of the ansatz of an archive, and labels of classes; files of version 1 of the format have none.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    dict

    Raises
    ------
    ArchiveError
        If the file is not an archive, damaged or of a newer version.
    """
    with reading(path) as file:
        return schema.read_plain(file["ansatz"]) if "ansatz" in file else {}


@contextmanager
def _changing(archive: Archive) -> Iterator[h5py.File]:
    """Change the file of a run; see `dnnfem.archive.container.writing`."""
    with writing(archive.path) as file:
        schema.migrate(file, archive.problem)
        yield file


def _in_progress(file: h5py.File, number: int) -> h5py.Group | None:
    """Return the solve in progress if it is one of that level: where a later level has begun it says nothing."""
    current = file.get("current")
    return current if current is not None and current.attrs.get("level", -1) == number else None


def _to_go_on(result: Result) -> State:
    """Return the state of a solve that may have ended at a limit, with its memory if it ended at its last iterate."""
    own = result.resumable
    if own is None or own.progress is None or not np.array_equal(own.progress.x, result.x, equal_nan=True):
        return result.state
    return own


def _check_shape(name: str, x: Array, file: h5py.File, number: int) -> None:
    expected = file[f"levels/{number:04d}/start"].shape
    if x.shape != expected:
        raise ValueError(f"{name}: got coefficients of shape {x.shape}, expected {expected} on level {number}")


def _record(number: int, group: h5py.Group, like: NetworkSpace | None) -> LevelRecord:
    solved = "coefficients" in group
    _, steps, status = schema.read_solve(group["solver"]) if solved else (None, None, None)
    return LevelRecord(
        number=number,
        space=schema.read_space(group["space"], like),
        start=group["start"][()],
        x=group["coefficients"][()] if solved else None,
        status=status,
        steps=steps,
        estimate=schema.read_estimate(group["estimate"]) if "estimate" in group else None,
        marked=group["marked"][()] if "marked" in group else None,
        transfer=schema.read_transfer(group["transfer"]) if "transfer" in group else None,
    )
