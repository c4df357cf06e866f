"""Orthogonal bidiagonalization in LAPACK, and damped least squares with it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cython_lapack, lapack

from dnnfem.records import Array

BLOCK = 64
"""Columns that LAPACK treats at a time, at most."""

ARGUMENTS = {"dgebrd": 11, "dormbr": 14, "dbdsqr": 15}
"""How many arguments routines have."""


def fortran(columns: Array) -> Array:
    """Return a copy with contiguous columns."""
    return np.array(columns, dtype=np.float64, order="F")


def _routine(name: str) -> Callable[..., int]:
    """Return a LAPACK routine for which SciPy has no function in Python; it returns what LAPACK says of its success."""
    capsule, api = cython_lapack.__pyx_capi__[name], ctypes.pythonapi
    api.PyCapsule_GetName.restype, api.PyCapsule_GetPointer.restype = ctypes.c_char_p, ctypes.c_void_p
    signature = api.PyCapsule_GetName(ctypes.py_object(capsule))
    address = api.PyCapsule_GetPointer(ctypes.py_object(capsule), ctypes.c_char_p(signature))
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * ARGUMENTS[name])(address)

    def call(*arguments: Array | bytes | int) -> int:
        success = ctypes.c_int()
        values = [ctypes.c_int(a) if isinstance(a, int) else a for a in arguments]
        places = [
            a.ctypes if isinstance(a, np.ndarray) else a if isinstance(a, bytes) else ctypes.byref(a) for a in values
        ]
        function(*places, ctypes.byref(success))
        return success.value

    return call


_dgebrd, _dormbr, _dbdsqr = map(_routine, ARGUMENTS)


@dataclass(frozen=True, eq=False)
class Bidiagonal:
    """``A = Q B P^T`` with an upper bidiagonal ``B``, for an A (rows, n) that is not wide.

    It takes half of the work of a singular value decomposition with vectors, and serves all multipliers of a damped
    least-squares problem as well (Eldén 1977).

    Parameters
    ----------
    reflectors : array, shape (rows, n), columns contiguous
        Householder vectors of both factors, as LAPACK keeps them, with `left` and `right`, shape (n,).
    diagonal, above : array, shape (n,), (n - 1,)
        Of ``B``.
    """

    reflectors: Array
    left: Array
    right: Array
    diagonal: Array
    above: Array

    @classmethod
    def of(cls, matrix: Array) -> Bidiagonal:
        """Factorize a matrix that is not empty."""
        reflectors = fortran(matrix)
        rows, n = reflectors.shape
        diagonal, above, left, right = (np.zeros(n) for _ in range(4))
        work = np.empty(BLOCK * (rows + n))
        _dgebrd(rows, n, reflectors, rows, diagonal, above, left, right, work, work.size)
        return cls(reflectors, left, right, diagonal, above[: n - 1])

    def singular(self, columns: Array) -> tuple[Array, Array]:
        """Return the singular values, descending, and ``U^T columns`` for (n, c), ``U`` the left vectors of ``B``."""
        n, values, above, turned = len(self.diagonal), self.diagonal.copy(), self.above.copy(), fortran(columns)
        work, nothing = np.empty(4 * n), np.empty(1)
        failed = _dbdsqr(b"U", n, 0, 0, turned.shape[1], values, above, nothing, 1, nothing, 1, turned, n, work)
        if failed:
            raise np.linalg.LinAlgError(f"{failed} singular values have not converged")
        return values, turned

    def inside(self, columns: Array) -> Array:
        """Return the first n rows of ``Q^T columns`` for (rows, c)."""
        return self._applied(b"Q", b"T", self.left, columns)[: len(self.diagonal)]

    def to_right(self, y: Array) -> Array:
        """Return ``P^T y`` for (n,)."""
        return self._applied(b"P", b"T", self.right, y[:, None])[:, 0]

    def from_right(self, y: Array) -> Array:
        """Return ``P y`` for (n,)."""
        return self._applied(b"P", b"N", self.right, y[:, None])[:, 0]

    def _applied(self, which: bytes, transposed: bytes, scales: Array, columns: Array) -> Array:
        out, (rows, n) = fortran(columns), self.reflectors.shape
        work = np.empty(BLOCK * (max(out.shape) + BLOCK))
        # LAPACK wants to know how many columns were factorized for Q, and how many rows for P.
        shape = (*out.shape, n if which == b"Q" else rows)
        _dormbr(which, b"L", transposed, *shape, self.reflectors, rows, scales, out, len(out), work, work.size)
        return out

    def damped(self, damping: float, load: Array, dual: Array) -> Array:
        """Return the ``y`` with ``(B^T B + damping^2) y = B^T load + damping dual``, shape (n,).

        This is half of the solution of a symmetric system with a tridiagonal matrix (Golub and Kahan 1965),
        ``damping r + B y = load`` and ``B^T r - damping y = -dual``: no squares are formed.
        """
        n = len(self.diagonal)
        right, off, along = np.empty(2 * n), np.empty(2 * n - 1), np.empty(2 * n)
        right[::2], right[1::2], along[::2], along[1::2] = -dual, load, -damping, damping
        off[::2], off[1::2] = self.diagonal, self.above
        *_, both, failed = lapack.dgtsv(off, along, off, right)
        if failed:
            raise np.linalg.LinAlgError("the bidiagonal matrix is singular")
        return np.asarray(both[::2])
