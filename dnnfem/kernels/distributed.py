"""Kernels in several processes: each has its share of the points, and sums go over all of them.

Every process runs the same script on the same data, has the kernels of another backend on its own share of the points,
and gets the same sums; whatever has the size of the coefficients is computed by all.  Least-squares systems are
triangles of the shares, one below the other (TSQR: Demmel, Grigori, Hoemmen and Langou, SIAM J. Sci. Comput. 34 (2012)
A206-A239).
"""

from __future__ import annotations

import atexit
import os
import sys
import zlib
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from array_api_compat import array_namespace

from dnnfem import kernels
from dnnfem.kernels.components import Component
from dnnfem.kernels.influence import LeftOut
from dnnfem.kernels.least_squares import DenseLeastSquares
from dnnfem.kernels.orthogonal import Rotation
from dnnfem.kernels.program import Program
from dnnfem.kernels.protocol import MEMORY, Ansatz, Evaluator, Law, PlacedPoints
from dnnfem.kernels.reduction import Compression, Reduction
from dnnfem.records import Array, Index

LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables by which torchrun tells a process which of how many it is."""

SMALL = 2**21
"""Weights that are applied to points in one sweep, up to which every process does all of it: the others could not be
told the result as fast."""

if "LOCAL_WORLD_SIZE" in os.environ and "numba" not in sys.modules:
    # Processes on one machine share its cores.
    share = (os.cpu_count() or 1) // int(os.environ["LOCAL_WORLD_SIZE"])
    os.environ.setdefault("NUMBA_NUM_THREADS", str(max(1, share)))


def processes() -> tuple[int, int]:
    """Return the number of this process and how many there are; join those that torchrun has started.

    A process that nobody has started together with others is the only one.
    """
    if not dist.is_available():
        return 0, 1
    if not dist.is_initialized():
        if not all(name in os.environ for name in LAUNCHED):
            return 0, 1
        # What crosses the border of kernels is in the memory of the host, also where they are on GPUs.
        dist.init_process_group("gloo")
        # Threads that are still there when the interpreter ends abort it.
        atexit.register(dist.destroy_process_group)
    return dist.get_rank(), dist.get_world_size()


@contextmanager
def together() -> Any:
    """Say of failures of the others what they mean."""
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError(
            "distributed: another process has ended or does not answer; what an archive has stored is there: start the "
            f"run again, with any number of processes ({error})"
        ) from error


def total(array: Any, what: str, key: int = 0) -> Array:
    """Return the sum of arrays of the same shape over all processes, the same bits in each of them.

    Raises
    ------
    ConnectionError
        If another process has ended.
    RuntimeError
        If another process asks for something else, or at other coefficients (`key`).
    """
    values, count = np.asarray(array, dtype=np.float64), processes()[1]
    if count == 1:
        return values.copy()
    # Marks travel along.  They are equal if and only if the square of their sum is as large as that of their squares
    # can be; both sums are integers below 2^53, and what is compared is rounded alike.
    mark = zlib.crc32(f"{what} {values.shape} {key}".encode()) % 2**20
    message = np.concatenate([[mark, mark**2], values.ravel()])
    where = f"cuda:{torch.cuda.current_device()}" if dist.get_backend() == "nccl" else "cpu"
    sums = torch.from_numpy(message).to(where)
    with together():
        dist.all_reduce(sums)
    message = np.asarray(sums.cpu().numpy())
    if message[0] ** 2 != count * message[1]:
        raise RuntimeError(
            f"distributed: this process asks for the {what}, another one for something else or at other coefficients; "
            "expected the same script with the same data in all of them, with limits by steps, not by seconds"
        )
    return message[2:].reshape(values.shape)


@dataclass(frozen=True, eq=False)
class Share:
    """The points of one process; one point of weight zero where there are more processes than points.

    Parameters
    ----------
    whole : PlacedPoints
    start, stop : int
        Of its points.
    """

    whole: PlacedPoints
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of points, at least one."""
        return max(self.stop - self.start, 1)

    @property
    def _rows(self) -> slice:
        return slice(self.start, self.stop) if self.stop > self.start else slice(0, 1)

    @property
    def points(self) -> Array:
        """Points, shape (size, d)."""
        return self.whole.points[self._rows]

    @property
    def weights(self) -> Array:
        """Weights, shape (size,)."""
        weights = self.whole.weights[self._rows]
        return weights if self.stop > self.start else np.zeros_like(weights)

    @property
    def data(self) -> Array:
        """Data, shape (size, k)."""
        return self.whole.data[self._rows]

    @property
    def cells(self) -> None:
        """Every point is a cell of its own: cells may reach over several shares."""
        return None

    def spread(self, values: Array) -> Array:
        """Return values (..., size) at their places among those of all points, zero elsewhere."""
        full = np.zeros((*values.shape[:-1], len(self.whole.weights)))
        full[..., self.start : self.stop] = values[..., : self.stop - self.start]
        return full

    def own(self, values: Array) -> Array:
        """Return the part (..., size) of values at all points."""
        return values[..., self._rows] if self.stop > self.start else np.zeros((*values.shape[:-1], 1))


@dataclass(frozen=True, eq=False)
class DistributedEvaluator:
    """See `dnnfem.kernels.protocol.Evaluator`.

    Parameters
    ----------
    local : Evaluator
        On the own share.
    share : Share
    largest : int
        Number of points of the largest share.
    """

    local: Any
    share: Share
    largest: int

    @property
    def program(self) -> Program:
        """The program."""
        program: Program = self.local.program
        return program

    def value(self, x: Array) -> float:
        """Return ``sum_q w_q L``."""
        return self.linearize(x).value

    def linearize(self, x: Array) -> DistributedLinearization:
        """Return the linearization at `x`; it computes when it is asked."""
        return DistributedLinearization(self, self.local.linearize(x))

    def jet(self, x: Array, points: Array, components: Sequence[Component]) -> Array:
        """Return the user's jet at any points; every process computes all of it."""
        jet: Array = self.local.jet(x, points, components)
        return jet

    def cellwise(self, x: Array) -> Array:
        """Return the sums of ``w L`` per cell."""
        values, cells = self.samplewise(x), self.share.whole.cells
        return values if cells is None else np.bincount(cells, weights=values).astype(np.float64)

    def samplewise(self, x: Array) -> Array:
        """Return ``w L`` at every point."""
        return total(self.share.spread(self.local.samplewise(x)), "values of the samples", zlib.crc32(x.tobytes()))

    def left_out(self, x: Array, root: Array, exact: bool) -> LeftOut:
        """Return every sample as the network without it sees it."""
        own, names = self.local.left_out(x, root, exact), ("losses", "leverage", "margin")
        rows = self.share.spread(np.stack([getattr(own, name) for name in names]))
        return LeftOut(*total(rows, "samples left out", zlib.crc32(x.tobytes())))


@dataclass(frozen=True, eq=False)
class DistributedLinearization:
    """See `dnnfem.kernels.protocol.Linearization`.

    Parameters
    ----------
    evaluator : DistributedEvaluator
    local : KernelLinearization
        On the own share.
    """

    evaluator: DistributedEvaluator
    local: Any

    @property
    def x(self) -> Array:
        """The point, shape (dim,), primal."""
        x: Array = self.local.x
        return x

    @cached_property
    def _key(self) -> int:
        return zlib.crc32(self.x.tobytes())

    def _total(self, array: Any, what: str) -> Array:
        return total(array, what, self._key)

    @cached_property
    def value(self) -> float:
        """``J(x)``."""
        return float(self._total(self.local.value, "value"))

    @cached_property
    def derivative(self) -> Array:
        """``J'(x)``, dual, shape (dim,)."""
        return self._total(self.local.derivative, "derivative")

    def hessian(self, v: Array) -> Array:
        """Return ``J''(x) v``, dual, for v of shape (dim,) or (dim, k)."""
        return self._total(self.local.hessian(v), "product with the Hessian")

    def curvature(self, v: Array) -> Array:
        """Return ``sum_q w T^T C T v``, dual, for v of shape (dim,) or (dim, k)."""
        return self._total(self.local.curvature(v), "product with the curvature")

    def gram(self, single: bool = False) -> Array:
        """Return the curvature as a matrix, shape (dim, dim)."""
        if single not in self._grams:
            self._grams[single] = self._total(self.local.gram(single=single), "curvature as a matrix")
        return self._grams[single]

    @cached_property
    def _grams(self) -> dict[bool, Array]:
        return {}

    @cached_property
    def moments(self) -> tuple[Array, ...]:
        """``sum_q w (y, 1) (y, 1)^T`` of what each stage reads."""
        return tuple(self._total(part, "moments") for part in self.local.moments)

    def curvature_along(self, directions: Mapping[int, tuple[Array, Array]]) -> Array | None:
        """Return ``<C d_i, d_j>`` for directions of rank one of the weights of stages."""
        own = self.local.curvature_along(directions)
        return None if own is None else self._total(own, "curvature along directions")

    @cached_property
    def _residual(self) -> Array | None:
        own = self.local.residual()
        if own is None:
            return None
        share = self.evaluator.share
        return self._total(share.spread(_host(own).reshape(-1, share.size)), "residual").ravel()

    def residual(self) -> Array | None:
        """Return the weighted residual vector of all points, residuals slower than points; None for losses."""
        return self._residual

    def pull(self, residual: Array) -> Array:
        """Return ``A^T residual`` for a vector of all points, dual, shape (dim,)."""
        share = self.evaluator.share
        rows = share.own(np.asarray(residual).reshape(-1, len(share.whole.weights)))
        return self._total(self.local.pull(rows.ravel()), "product with a residual")

    def mixed(self, other: DistributedLinearization) -> Array | None:
        """Return ``A^T r(y)``, dual, with the residual of a linearization at ``y``; None for a loss law."""
        own = self.local.mixed(other.local)
        return None if own is None else self._total(own, "product with another residual")

    def system(self, columns: Index | None = None) -> Any:
        """Return the triangles of all shares, one below the other, on the host; None if there is no system."""
        own = self.local.system(columns)
        if own is None or processes()[1] == 1:
            return own
        e, size = self.evaluator, own.shape[1] + 1
        per_point = own.samples // e.share.size
        rows = _triangle(own)
        # As many rows as the largest share has, which are zero at the end of smaller ones.
        rank, count = processes()
        stack = np.zeros((count, min(per_point * e.largest, size), size))
        stack[rank, : len(rows)] = rows
        stacked = np.asfortranarray(self._total(stack, "least-squares system").reshape(-1, size))
        matrix = stacked[:, :-1]

        def pull(values: Array) -> Array:
            full = self.pull(values)
            return full if columns is None else full[columns]

        reduction = Reduction(((per_point * len(e.share.whole.weights), Compression(matrix, pull)),))
        slope = getattr(own, "linear", None)
        linear = None if slope is None else self._total(slope, "slope")
        return DenseLeastSquares(matrix, stacked[:, -1], reduction=reduction, linear=linear)


def _triangle(system: Any) -> Array:
    """Return the triangle of matrix and residual, or their rows if there are no more of them than columns."""
    matrix, residual = system.matrix, system.residual
    xp = array_namespace(matrix)
    rows = xp.concat([matrix, residual[:, None]], axis=1)
    if rows.shape[0] > rows.shape[1]:
        rows = torch.linalg.qr(rows, mode="r").R if isinstance(rows, torch.Tensor) else Rotation.of(rows)[1]
    return _host(rows)


def _host(array: Any) -> Array:
    return np.asarray(array.cpu() if isinstance(array, torch.Tensor) else array, dtype=np.float64)


def place(
    program: Program,
    quadrature: PlacedPoints,
    ansatz: Ansatz,
    law: Law,
    memory: int | None = MEMORY,
    device: str | None = None,
    precision: str = "double",
) -> Evaluator:
    """Bind the four, each process with its share of the points; ``device="cuda"`` is a GPU of its own for each.

    Where there is little to do everybody does all of it: batches of a stochastic solver, for instance.
    """
    rank, count = processes()
    size = len(quadrature.weights)
    cuts = [size * number // count for number in range(count + 1)]
    share = Share(quadrature, *cuts[rank : rank + 2])
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    if size * program.applied <= SMALL:
        return kernels.place(program, quadrature, ansatz, law, memory, None, device, precision)
    local = kernels.place(program, share, ansatz, law, memory, None, device, precision)
    return DistributedEvaluator(local, share, max(1, *np.diff(cuts).tolist()))


def resources() -> dict[str, str]:
    """Return what processes may talk by."""
    names = [name for name in ("gloo", "nccl") if dist.is_available() and dist.is_backend_available(name)]
    return {"processes talk by": ", ".join(names) or "nothing"}
