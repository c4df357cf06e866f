"""Sums, multiples, shifts and compositions of functionals.

A solver never hears of a correction term: what multilevel methods, regularization and restriction to a subspace add to
a functional is again a functional.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

from dnnfem.functionals.penalty import TikhonovLinearization
from dnnfem.functionals.protocols import Functional
from dnnfem.given import real_number
from dnnfem.kernels.protocol import Linearization
from dnnfem.kernels.reduction import stacked
from dnnfem.kernels.system import LeastSquaresSystem
from dnnfem.records import Array, Index
from dnnfem.spaces import Coordinates, Space, Transfer
from dnnfem.spaces.layout import check_coefficients


@dataclass(frozen=True, eq=False)
class CombinedLinearization:
    """``sum_i a_i J_i(x) + <shift, x>`` at a point."""

    x: Array
    parts: tuple[Linearization, ...]
    factors: tuple[float, ...]
    shift: Array | None = None
    _grams: dict[bool, Array] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def value(self) -> float:
        """``J(x)``."""
        value = sum(a * part.value for a, part in zip(self.factors, self.parts, strict=True))
        return value if self.shift is None else value + float(self.shift @ self.x)

    @cached_property
    def derivative(self) -> Array:
        """``J'(x)``, dual."""
        value = _combine(self.factors, [part.derivative for part in self.parts])
        return value if self.shift is None else value + self.shift

    def hessian(self, v: Array) -> Array:
        """``J''(x) v``, dual."""
        return _combine(self.factors, [part.hessian(v) for part in self.parts])

    def curvature(self, v: Array) -> Array:
        """Positive semidefinite part of ``J''(x) v``."""
        return _combine(self.factors, [part.curvature(v) for part in self.parts])

    def gram(self, single: bool = False) -> Array:
        """Sum of the curvatures."""
        if single in self._grams:
            return self._grams[single]
        result = self.factors[0] * self.parts[0].gram(single=single)
        for factor, part in zip(self.factors[1:], self.parts[1:], strict=True):
            if isinstance(part, TikhonovLinearization):
                part.norm.dense(result, factor * part.alpha)
            else:
                result += factor * part.gram(single=single)
        self._grams[single] = result
        return result

    def residual(self) -> Array | None:
        """Residuals of all terms; None if a term has none, or if there is a shift."""
        parts = [part.residual() for part in self.parts]
        if self.shift is not None or min(self.factors) < 0.0 or any(part is None for part in parts):
            return None
        roots = np.sqrt(self.factors)
        rows: Array = stacked([float(a) * part for a, part in zip(roots, parts, strict=True) if part is not None])
        return rows

    def mixed(self, other: CombinedLinearization) -> Array | None:
        """Sum of what the terms have; None if a term has none, or if there is a shift."""
        parts = [part.mixed(there) for part, there in zip(self.parts, other.parts, strict=True)]
        if self.shift is not None or any(part is None for part in parts):
            return None
        return _combine(self.factors, [part for part in parts if part is not None])

    def system(self, columns: Index | None = None) -> LeastSquaresSystem | None:
        """Rows of all terms; None if a term has none, or if there is a shift."""
        if self.shift is not None or min(self.factors) < 0.0:
            return None
        result: LeastSquaresSystem | None = None
        for factor, part in zip(self.factors, self.parts, strict=True):
            system = part.system(columns)
            if system is None:
                return None
            system = system if factor == 1.0 else factor * system
            result = system if result is None else result + system
        return result


def _combine(factors: tuple[float, ...], arrays: list[Array]) -> Array:
    result = factors[0] * arrays[0]
    for factor, array in zip(factors[1:], arrays[1:], strict=True):
        result = result + factor * array
    return result


def _check_terms(terms: tuple[Functional, ...]) -> None:
    dims = [term.space.dim for term in terms]
    if len(set(dims)) != 1:
        raise ValueError(f"terms: got functionals in {dims} coefficients, expected the same number")
    # A functional on R^n fits every space of that dimension: whoever wrote it knows what its coefficients mean.
    spaces = [term.space for term in terms if not isinstance(term.space, Coordinates)]
    for space in spaces[1:]:
        if space != spaces[0]:
            raise ValueError(f"terms: got functionals on {spaces[0]} and on {space}, expected one and the same space")


@dataclass(frozen=True, eq=False)
class Sum:
    """``J_1 + J_2 + ...``; all terms in the coefficients of one space.

    Parameters
    ----------
    *terms : Functional

    Raises
    ------
    ValueError
        If there is no term, or spaces differ; a term on plain R^n goes with every space of that dimension.
    """

    terms: tuple[Functional, ...]

    def __init__(self, *terms: Functional) -> None:
        if not terms:
            raise ValueError("terms: got none, expected at least one functional")
        _check_terms(terms)
        object.__setattr__(self, "terms", terms)

    @property
    def space(self) -> Space:
        """The space of the first term."""
        return self.terms[0].space

    @property
    def condensable(self) -> Index | None:
        """What all terms allow to eliminate."""
        first = self.terms[0].condensable
        others = [term.condensable for term in self.terms[1:]]
        if first is None or any(other is None or not np.array_equal(other, first) for other in others):
            return None
        return first

    def value(self, x: Array) -> float:
        """Return ``J(x)``."""
        return sum(term.value(x) for term in self.terms)

    def linearize(self, x: Array) -> Linearization:
        """Return value, derivative and products at `x`."""
        parts = tuple(term.linearize(x) for term in self.terms)
        return CombinedLinearization(parts[0].x, parts, (1.0,) * len(parts))

    def on(self, **changes: Any) -> Sum:
        """Return the sum of the terms on another space or quadrature."""
        return Sum(*(term.on(**changes) for term in self.terms))


@dataclass(frozen=True, eq=False)
class Scaled:
    """``factor * J``.

    Parameters
    ----------
    functional : Functional
        ``J``.
    factor : float

    Raises
    ------
    ValueError
        If the factor is not finite.
    """

    functional: Functional
    factor: float

    def __post_init__(self) -> None:
        if not np.isfinite(real_number("factor", self.factor, "a finite number")):
            raise ValueError(f"factor: got {self.factor!r}, expected a finite number")

    @property
    def space(self) -> Space:
        """The space of `functional`."""
        return self.functional.space

    @property
    def condensable(self) -> Index | None:
        """As of `functional`, for a positive factor."""
        return self.functional.condensable if self.factor > 0.0 else None

    def value(self, x: Array) -> float:
        """Return ``factor * J(x)``."""
        return self.factor * self.functional.value(x)

    def linearize(self, x: Array) -> Linearization:
        """Return value, derivative and products at `x`."""
        part = self.functional.linearize(x)
        return CombinedLinearization(part.x, (part,), (self.factor,))

    def on(self, **changes: Any) -> Scaled:
        """Return the multiple of the functional on another space or quadrature."""
        return replace(self, functional=self.functional.on(**changes))


@dataclass(frozen=True, eq=False)
class Shifted:
    """``J(x) + <shift, x>`` with a dual vector, e.g. the coarse model ``J_H(x_H + s) + <P^T g_h - g_H, s>``.

    Parameters
    ----------
    functional : Functional
        ``J``.
    shift : array, shape (dim,)
        Dual.
    """

    functional: Functional
    shift: Array

    def __post_init__(self) -> None:
        check_coefficients(self.functional.space, self.shift, "shift", finite=True)

    @property
    def space(self) -> Space:
        """The space of `functional`."""
        return self.functional.space

    @property
    def condensable(self) -> None:
        """A linear term is not a sum of squares."""
        return None

    def value(self, x: Array) -> float:
        """Return ``J(x) + <shift, x>``."""
        return self.functional.value(x) + float(self.shift @ x)

    def linearize(self, x: Array) -> Linearization:
        """Return value, derivative and products at `x`."""
        part = self.functional.linearize(x)
        return CombinedLinearization(part.x, (part,), (1.0,), self.shift)

    def on(self, *, transfer: Transfer | None = None, **changes: Any) -> Shifted:
        """Return the same with another quadrature.

        Raises
        ------
        ValueError
            On another space: the shift belongs to this one.
        """
        if changes.get("space") is not None:
            raise ValueError("space: got another space, expected none as the shift is a dual vector of the present one")
        return replace(self, functional=self.functional.on(**changes))


@dataclass(frozen=True, eq=False)
class Composed:
    """``J(P(y))`` for an affine map ``P``: a functional on a subspace, e.g. with most coefficients held fixed.

    Parameters
    ----------
    functional : Functional
        ``J``.
    transfer : Transfer
        ``P``, from R^k into the space of ``J``.
    condensable : int array, shape (j,), optional
        Numbers of the coefficients ``y`` that the outputs are affine in.
    """

    functional: Functional
    transfer: Transfer
    condensable: Index | None = None

    @property
    def space(self) -> Coordinates:
        """R^k."""
        return Coordinates(self.transfer.shape[1])

    def value(self, x: Array) -> float:
        """Return ``J(P(x))``."""
        return self.functional.value(self.transfer(x))

    def linearize(self, x: Array) -> ComposedLinearization:
        """Return value, derivative and products at `x`."""
        x = check_coefficients(self.space, x)
        return ComposedLinearization(x, self.functional.linearize(self.transfer(x)), self.transfer)

    def on(self, *, transfer: Transfer | None = None, **changes: Any) -> Composed:
        """Return the same with another quadrature.

        Raises
        ------
        ValueError
            On another space.
        """
        if changes.get("space") is not None:
            raise ValueError("space: got another space, expected none as the composition belongs to the present one")
        return replace(self, functional=self.functional.on(**changes))


@dataclass(frozen=True, eq=False)
class ComposedLinearization:
    """A composition at a point."""

    x: Array
    part: Linearization
    transfer: Transfer

    @property
    def value(self) -> float:
        """``J(P(x))``."""
        return self.part.value

    @cached_property
    def derivative(self) -> Array:
        """``P^T J'``."""
        return np.asarray(self.transfer.T @ self.part.derivative)

    def hessian(self, v: Array) -> Array:
        """``P^T J'' P v``."""
        return np.asarray(self.transfer.T @ self.part.hessian(self.transfer @ v))

    def curvature(self, v: Array) -> Array:
        """``P^T C P v``."""
        return np.asarray(self.transfer.T @ self.part.curvature(self.transfer @ v))

    def gram(self, single: bool = False) -> Array:
        """``P^T C P``."""
        return np.asarray(self.transfer.T @ (self.transfer.T @ self.part.gram(single=single)).T)

    def residual(self) -> Array | None:
        """The residual of the functional that is composed."""
        return self.part.residual()

    def mixed(self, other: ComposedLinearization) -> Array | None:
        """``P^T A^T r(y)``."""
        dual = self.part.mixed(other.part)
        return None if dual is None else np.asarray(self.transfer.T @ dual)

    def system(self, columns: Index | None = None) -> LeastSquaresSystem | None:
        """Columns of ``A P``."""
        matrix = self.transfer.matrix if columns is None else self.transfer.matrix[:, columns]
        # Systems of some columns may merge rows, which the residual of the whole must not see.
        chosen = None if columns is None else _chosen(matrix)
        system = self.part.system(chosen)
        if system is None or chosen is not None:
            return system
        composed: LeastSquaresSystem = system @ matrix
        return composed


def _chosen(matrix: sp.csr_array) -> Index | None:
    """Return which coefficients the columns of a matrix stand for, if each is a unit vector; None otherwise."""
    by_columns = matrix.tocsc()
    single = np.array_equal(by_columns.indptr, np.arange(matrix.shape[1] + 1)) and bool((by_columns.data == 1.0).all())
    return np.asarray(by_columns.indices, dtype=np.int64) if single else None
