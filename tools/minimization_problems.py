"""The 18 problems of unconstrained minimization of Moré, Garbow and Hillstrom, with derivatives.

    f(x) = sum_i r_i(x)^2,

with the residuals, starting points and minima that are published in ACM Transactions on Mathematical Software 7 (1981)
17-41.  Derivatives come from truncated Taylor arithmetic on arrays (`Jet`), so that a formula is written down once.
Where the number of variables is free, it is one for which a minimum is published.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray

ACCURACY = 1e-8
"""A problem is solved if f is above a published minimum by this, relative to it if that is more than one."""


class Jet(np.lib.mixins.NDArrayOperatorsMixin):
    """An array of functions at a point: values, gradients, Hessians, with the shapes s, s + (n,) and s + (n, n)."""

    def __init__(self, value: Array, first: Array, second: Array) -> None:
        self.value, self.first, self.second = value, first, second

    @classmethod
    def at(cls, x: Array) -> Jet:
        """Return the coordinates at `x`."""
        return cls(x, np.eye(x.size), np.zeros((x.size, x.size, x.size)))

    @property
    def size(self) -> int:
        """Number of functions."""
        return self.value.size

    def __getitem__(self, index: Any) -> Jet:
        return Jet(self.value[index], self.first[index], self.second[index])

    def composed(self, value: Array, slope: Array, bend: Array) -> Jet:
        """Return ``phi(u)`` from ``phi, phi', phi''`` at the values."""
        square = self.first[..., :, None] * self.first[..., None, :]
        second = slope[..., None, None] * self.second + bend[..., None, None] * square
        return Jet(value, slope[..., None] * self.first, second)

    def plus(self, other: Any) -> Jet:
        """Return the sum with a jet or with numbers."""
        if isinstance(other, Jet):
            return Jet(self.value + other.value, self.first + other.first, self.second + other.second)
        value = self.value + other
        shape = np.shape(value)
        n = self.first.shape[-1]
        return Jet(value, np.broadcast_to(self.first, (*shape, n)), np.broadcast_to(self.second, (*shape, n, n)))

    def times(self, other: Any) -> Jet:
        """Return the product with a jet or with numbers."""
        if not isinstance(other, Jet):
            other = np.asarray(other, dtype=np.float64)
            return Jet(self.value * other, self.first * other[..., None], self.second * other[..., None, None])
        u, v = self.value[..., None], other.value[..., None]
        mixed = self.first[..., :, None] * other.first[..., None, :]
        second = u[..., None] * other.second + v[..., None] * self.second + mixed + np.swapaxes(mixed, -1, -2)
        return Jet(self.value * other.value, u * other.first + v * self.first, second)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any) -> Any:
        if method != "__call__":
            return NotImplemented
        u = inputs[0]
        if ufunc in ELEMENTARY:
            return u.composed(*ELEMENTARY[ufunc](u.value))
        if ufunc is np.negative:
            return u.times(-1.0)
        v = inputs[1]
        if ufunc is np.matmul:
            return Jet(u @ v.value, np.tensordot(u, v.first, 1), np.tensordot(u, v.second, 1))
        if ufunc is np.power:
            return _power(u, v)
        if ufunc is np.subtract:
            return u.plus(-v) if isinstance(u, Jet) else v.times(-1.0).plus(u)
        if ufunc is np.divide:
            return (
                u.times(_power(v, -1.0))
                if isinstance(v, Jet) and isinstance(u, Jet)
                else (_power(v, -1.0).times(u) if isinstance(v, Jet) else u.times(1.0 / np.asarray(v)))
            )
        first, other = (u, v) if isinstance(u, Jet) else (v, u)
        if ufunc is np.add:
            return first.plus(other)
        return first.times(other) if ufunc is np.multiply else NotImplemented


def _power(u: Any, exponent: Any) -> Jet:
    if isinstance(exponent, Jet):
        # Of a positive number or jet.
        return np.exp(exponent * np.log(u))
    v, p = u.value, float(exponent)
    if p == 2.0:
        return u.composed(v * v, 2.0 * v, 2.0 * np.ones_like(v))
    return u.composed(v**p, p * v ** (p - 1.0), p * (p - 1.0) * v ** (p - 2.0))


def _arctan(v: Array) -> tuple[Array, Array, Array]:
    slope = 1.0 / (1.0 + v * v)
    return np.arctan(v), slope, -2.0 * v * slope**2


ELEMENTARY: dict[Any, Callable[[Array], tuple[Array, Array, Array]]] = {
    np.exp: lambda v: (np.exp(v), np.exp(v), np.exp(v)),
    np.log: lambda v: (np.log(v), 1.0 / v, -1.0 / v**2),
    np.sin: lambda v: (np.sin(v), np.cos(v), -np.sin(v)),
    np.cos: lambda v: (np.cos(v), -np.sin(v), -np.cos(v)),
    np.sqrt: lambda v: (np.sqrt(v), 0.5 / np.sqrt(v), -0.25 * v**-1.5),
    np.arctan: _arctan,
    np.absolute: lambda v: (np.abs(v), np.sign(v), np.zeros_like(v)),
}


def _joined(parts: Sequence[Any]) -> Any:
    """Return one long vector."""
    if not any(isinstance(part, Jet) for part in parts):
        return np.concatenate([np.atleast_1d(part) for part in parts])
    rows = [part[None] if part.value.ndim == 0 else part for part in parts]
    return Jet(*(np.concatenate([getattr(row, name) for row in rows]) for name in ("value", "first", "second")))


@dataclass(frozen=True, eq=False)
class Problem:
    """A sum of squares ``f = sum_i r_i^2`` with its starting point and the minima that are published.

    Attributes
    ----------
    name : str
    residual : callable
        ``r``, for arrays and for jets.
    start : array, shape (n,)
        The standard starting point.
    initial : float
        ``f`` there, to compare with what others have.
    minima : sequence of float
        Values at minima, local ones included.
    infima : sequence of float
        Values that are approached at infinity.
    """

    name: str
    residual: Callable[[Any], list[Any]]
    start: Array
    initial: float
    minima: Sequence[float]
    infima: Sequence[float] = ()
    _last: list[tuple[Array, Jet]] = field(default_factory=list, repr=False)

    @property
    def dim(self) -> int:
        """Number of variables."""
        return self.start.size

    def far_start(self) -> Array:
        """Return ten times the standard starting point; if that is zero, tens (as the authors do)."""
        return 10.0 * self.start if self.start.any() else np.full(self.dim, 10.0)

    def residuals(self, x: Array) -> Array:
        """Return ``r(x)``, shape (m,)."""
        with np.errstate(all="ignore"):
            return _joined(self.residual(x))

    def value(self, x: Array) -> float:
        """Return ``f(x)``."""
        with np.errstate(all="ignore"):
            return float(np.sum(self.residuals(x) ** 2))

    def _jet(self, x: Array) -> Jet:
        if not self._last or not np.array_equal(self._last[0][0], x):
            with np.errstate(all="ignore"):
                self._last[:] = [(np.array(x), _joined(self.residual(Jet.at(x))))]
        return self._last[0][1]

    def jacobian(self, x: Array) -> Array:
        """Return ``r'(x)``, shape (m, n)."""
        return self._jet(x).first

    def derivative(self, x: Array) -> Array:
        """Return ``f'(x)``, shape (n,)."""
        jet = self._jet(x)
        with np.errstate(all="ignore"):
            return 2.0 * jet.value @ jet.first

    def hessian(self, x: Array) -> Array:
        """Return ``f''(x)``, shape (n, n)."""
        jet = self._jet(x)
        with np.errstate(all="ignore"):
            return 2.0 * (jet.first.T @ jet.first + np.tensordot(jet.value, jet.second, 1))

    def solved(self, value: float) -> bool:
        """Whether a value of ``f`` is a published minimum, or below one, or at an infimum at infinity."""
        near = any(abs(value - least) <= ACCURACY * max(1.0, abs(least)) for least in self.minima)
        return near or any(value <= least + ACCURACY for least in self.infima)


def _helical(x: Any) -> list[Any]:
    turn = 0.5 if (x.value if isinstance(x, Jet) else x)[0] < 0.0 else 0.0
    angle = np.arctan(x[1] / x[0]) / (2.0 * math.pi) + turn
    return [10.0 * (x[2] - 10.0 * angle), 10.0 * (np.sqrt(x[0] ** 2 + x[1] ** 2) - 1.0), x[2]]


def _biggs(x: Any) -> list[Any]:
    t = 0.1 * np.arange(1, 14)
    y = np.exp(-t) - 5.0 * np.exp(-10.0 * t) + 3.0 * np.exp(-4.0 * t)
    return [x[2] * np.exp(-t * x[0]) - x[3] * np.exp(-t * x[1]) + x[5] * np.exp(-t * x[4]) - y]


def _gaussian(x: Any) -> list[Any]:
    half = np.array([0.0009, 0.0044, 0.0175, 0.0540, 0.1295, 0.2420, 0.3521])
    y, t = np.concatenate([half, [0.3989], half[::-1]]), 3.5 - 0.5 * np.arange(15)
    return [x[0] * np.exp(-0.5 * x[1] * (t - x[2]) ** 2) - y]


def _powell_badly_scaled(x: Any) -> list[Any]:
    return [1e4 * x[0] * x[1] - 1.0, np.exp(-x[0]) + np.exp(-x[1]) - 1.0001]


def _box(x: Any) -> list[Any]:
    t = 0.1 * np.arange(1, 11)
    return [np.exp(-t * x[0]) - np.exp(-t * x[1]) - x[2] * (np.exp(-t) - np.exp(-10.0 * t))]


def _variably_dimensioned(x: Any) -> list[Any]:
    moment = np.arange(1.0, x.size + 1.0) @ (x - 1.0)
    return [x - 1.0, moment, moment**2]


def _watson(x: Any) -> list[Any]:
    j, t = np.arange(x.size), np.arange(1, 30)[:, None] / 29.0
    slopes = np.where(j > 0, j * t ** np.maximum(j - 1, 0), 0.0)
    return [slopes @ x - (t**j @ x) ** 2 - 1.0, x[0], x[1] - x[0] ** 2 - 1.0]


def _penalty_one(x: Any) -> list[Any]:
    return [math.sqrt(1e-5) * (x - 1.0), np.ones(x.size) @ x**2 - 0.25]


def _penalty_two(x: Any) -> list[Any]:
    n, root, e = x.size, math.sqrt(1e-5), np.exp(0.1 * x)
    y = np.exp(0.1 * np.arange(2, n + 1)) + np.exp(0.1 * np.arange(1, n))
    weights = n - np.arange(0.0, n)
    return [x[0] - 0.2, root * (e[1:] + e[:-1] - y), root * (e[1:] - math.exp(-0.1)), weights @ x**2 - 1.0]


def _brown_badly_scaled(x: Any) -> list[Any]:
    return [x[0] - 1e6, x[1] - 2e-6, x[0] * x[1] - 2.0]


def _brown_dennis(x: Any) -> list[Any]:
    t = 0.2 * np.arange(1, 21)
    return [(x[0] + t * x[1] - np.exp(t)) ** 2 + (x[2] + np.sin(t) * x[3] - np.cos(t)) ** 2]


def _gulf(x: Any) -> list[Any]:
    t = 0.01 * np.arange(1, 100)
    y = 25.0 + (-50.0 * np.log(t)) ** (2.0 / 3.0)
    return [np.exp(-(np.absolute(y - x[1]) ** x[2]) / x[0]) - t]


def _trigonometric(x: Any) -> list[Any]:
    n, c = x.size, np.cos(x)
    return [n - np.ones(n) @ c + np.arange(1, n + 1) * (1.0 - c) - np.sin(x)]


def _rosenbrock(x: Any) -> list[Any]:
    return [10.0 * (x[1::2] - x[::2] ** 2), 1.0 - x[::2]]


def _powell_singular(x: Any) -> list[Any]:
    a, b, c, d = (x[k::4] for k in range(4))
    return [a + 10.0 * b, math.sqrt(5.0) * (c - d), (b - 2.0 * c) ** 2, math.sqrt(10.0) * (a - d) ** 2]


def _beale(x: Any) -> list[Any]:
    return [y - x[0] * (1.0 - x[1] ** k) for k, y in ((1, 1.5), (2, 2.25), (3, 2.625))]


def _wood(x: Any) -> list[Any]:
    a, b, c, d = (x[k] for k in range(4))
    root = math.sqrt(10.0)
    parts = [10.0 * (b - a**2), 1.0 - a, math.sqrt(90.0) * (d - c**2), 1.0 - c]
    return [*parts, root * (b + d - 2.0), (b - d) / root]


def _chebyquad(x: Any) -> list[Any]:
    n, shifted = x.size, 2.0 * x - 1.0
    before, last, parts = 1.0, shifted, []
    for k in range(1, n + 1):
        parts.append(np.full(n, 1.0 / n) @ last + (1.0 / (k * k - 1.0) if k % 2 == 0 else 0.0))
        before, last = last, 2.0 * shifted * last - before
    return parts


def problems(**sizes: int) -> dict[str, Problem]:
    """Return the 18 problems by name, in the order of the article.

    Parameters
    ----------
    **sizes : int
        Numbers of variables, for ``watson``, ``penalty_one`` and ``penalty_two``; of the minima that belong to other
        numbers some are published.
    """
    watson = sizes.get("watson", 6)
    one, two = sizes.get("penalty_one", 10), sizes.get("penalty_two", 10)
    count = np.arange(1.0, 11.0)
    collection = [
        Problem("helical valley", _helical, np.array([-1.0, 0.0, 0.0]), 2500.0, (0.0,)),
        Problem("Biggs EXP6", _biggs, np.array([1.0, 2, 1, 1, 1, 1]), 0.779070, (0.0, 5.65565e-3, 0.306366772)),
        Problem("Gaussian", _gaussian, np.array([0.4, 1.0, 0.0]), 3.88811e-6, (1.12793e-8,)),
        Problem("Powell badly scaled", _powell_badly_scaled, np.array([0.0, 1.0]), 1.13526, (0.0,)),
        Problem("Box three-dimensional", _box, np.array([0.0, 10.0, 20.0]), 1031.15, (0.0,)),
        Problem("variably dimensioned", _variably_dimensioned, 1.0 - count / 10.0, 2198551.16, (0.0,)),
        Problem("Watson", _watson, np.zeros(watson), 30.0, (WATSON[watson],)),
        Problem("penalty I", _penalty_one, np.arange(1.0, one + 1.0), PENALTY_ONE[one][0], PENALTY_ONE[one][1:]),
        Problem("penalty II", _penalty_two, np.full(two, 0.5), PENALTY_TWO[two][0], PENALTY_TWO[two][1:]),
        Problem("Brown badly scaled", _brown_badly_scaled, np.ones(2), 999998000003.0, (0.0,)),
        Problem("Brown and Dennis", _brown_dennis, np.array([25.0, 5.0, -5.0, -1.0]), 7926693.34, (85822.20163,)),
        Problem("Gulf research and development", _gulf, np.array([5.0, 2.5, 0.15]), 12.1107, (0.0,), (0.038,)),
        Problem("trigonometric", _trigonometric, np.full(10, 0.1), 7.07576e-3, (0.0, 2.79506e-5)),
        Problem("extended Rosenbrock", _rosenbrock, np.tile([-1.2, 1.0], 5), 121.0, (0.0,)),
        Problem("extended Powell singular", _powell_singular, np.tile([3.0, -1.0, 0.0, 1.0], 3), 645.0, (0.0,)),
        Problem("Beale", _beale, np.array([1.0, 1.0]), 14.203125, (0.0,)),
        Problem("Wood", _wood, np.array([-3.0, -1.0, -3.0, -1.0]), 19192.0, (0.0,)),
        Problem("Chebyquad", _chebyquad, np.arange(1.0, 9.0) / 9.0, 3.86177e-2, (3.51687e-3,)),
    ]
    return {problem.name: problem for problem in collection}


WATSON = {6: 2.28767e-3, 9: 1.39976e-6, 12: 4.72238e-10}
PENALTY_ONE = {4: (885.063, 2.24997e-5), 10: (148032.565, 7.08765e-5)}
PENALTY_TWO = {4: (2.34001, 9.37629e-6), 10: (162.653, 2.93660e-4)}
