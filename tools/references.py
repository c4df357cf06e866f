"""Reference solutions for the benchmarks of physics-informed networks, computed by NumPy and SciPy; no data are read.

    python tools/references.py

prints how accurate the two computed ones are, and what they cost:

burgers       ``u_t + u u_x = nu u_xx`` on [-1, 1], by the formula of Cole and Hopf
allen_cahn    ``u_t = 1e-4 u_xx + 5 (u - u^3)``, periodic on [-1, 1], by cosines in space and collocation in time

All others are closed forms.  They map points (m, d), coordinates in space first and time last, to values (m,), for
arrays of any library: torch differentiates them.  ``name_source`` is the right-hand side of the equation of ``name``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device
from numpy.polynomial import legendre
from scipy.fft import dct, idct
from scipy.special import erfc, roots_jacobi

Array = np.ndarray
BLOCK = 2**18
"""Numbers of one temporary array."""


def in_blocks(function: Callable[[Array, Array], Array], t: Any, x: Any, size: int) -> Array:
    """Return ``function(t, x)`` for broadcast arguments, some points at a time; a point needs `size` numbers."""
    t, x = np.broadcast_arrays(np.asarray(t, float), np.asarray(x, float))
    times, places, values = t.ravel(), x.ravel(), np.empty(t.size)
    count = max(1, BLOCK // size)
    for start in range(0, t.size, count):
        part = slice(start, start + count)
        values[part] = function(times[part], places[part])
    return values.reshape(t.shape)


def burgers(t: Any, x: Any, nu: float = 0.01 / math.pi, nodes: int = 200) -> Array:
    """Return the solution of ``u_t + u u_x = nu u_xx``, ``u(0, x) = -sin(pi x)``, ``u(t, +-1) = 0``.

    Cole and Hopf: the mean of ``-sin(pi y)`` with the weight ``exp(-eta^2 - cos(pi y) / (2 pi nu))``, where
    ``y = x - eta sqrt(4 nu t)`` and eta runs over the real line.  The integrands are entire and decay like a Gaussian,
    so the trapezoidal rule converges exponentially.  For ``t <= 1`` and the default nu, 100 nodes suffice.
    """
    height = 1.0 / (2.0 * math.pi * nu)
    # Farther out a weight is below exp(-40) times the one of eta = 0.
    eta = math.sqrt(2.0 * height + 40.0) * np.linspace(-1.0, 1.0, nodes)

    def block(t: Array, x: Array) -> Array:
        y = math.pi * (x[:, None] - np.sqrt(4.0 * nu * t)[:, None] * eta)
        exponent = -(eta**2) - height * np.cos(y)
        weight = np.exp(exponent - exponent.max(axis=1, keepdims=True))
        mean = -(weight * np.sin(y)).sum(axis=1) / weight.sum(axis=1)
        return np.where(t == 0.0, -np.sin(math.pi * x), mean)

    return in_blocks(block, t, x, nodes)


# -- Allen-Cahn -------------------------------------------------------------------------------------------------------

DIFFUSION, RATE = 1e-4, 5.0
LONGEST = 0.125
"""Panel in time; the reaction has singularities at an imaginary distance of pi / 10."""

STENCIL = np.arange(-5.0, 7.0)
"""Grid points that interpolate between the points 0 and 1."""


def early(t: Any, x: Array) -> Array:
    """Return the solution at small times, for ``0 <= x <= 1``: the flow of the reaction after that of diffusion.

    Both are closed forms.  The two do not commute; the leading term of the error is ``15 nu t^2 u u_x^2``, bounded by
    ``0.006 t^2``.  It stays so at the kink of the initial value: its periodic derivative jumps from -2 to 2 at x = 1.
    """
    s = np.sqrt(2.0 * DIFFUSION * t)
    # Means over r, normal around x with deviation s: of r^2 cos(pi r) on the real line, plus 4 (1 - r) cos(pi r) beyond
    # r = 1, where the periodic function is (r - 2)^2 cos(pi r).  The factor exp(i pi r) shifts a mean by i pi s^2.
    shift, decay = 1j * math.pi * s**2, np.exp(-0.5 * (math.pi * s) ** 2)
    smooth = np.exp(1j * math.pi * x) * ((x + shift) ** 2 + s**2)
    # The width is not zero, lest 0 / 0; the kink is then sharper than a rounding error.
    width = np.maximum(s, 1e-30)
    beyond = x - 1.0 + shift
    z = beyond / (math.sqrt(2.0) * width)
    half = 0.5 * beyond * erfc(-z) + width * np.exp(-(z**2)) / math.sqrt(2.0 * math.pi)
    v = decay * (smooth + 4.0 * np.exp(1j * math.pi * (x - 1.0)) * half).real
    return np.asarray(v * np.exp(RATE * t) / np.sqrt(1.0 + v**2 * np.expm1(2.0 * RATE * t)))


def lagrange(nodes: Array, at: Array) -> Array:
    """Return the values (m, n) of the Lagrange polynomials of n nodes in [-1, 1]."""
    degree = len(nodes) - 1
    return np.asarray(legendre.legvander(at, degree) @ np.linalg.inv(legendre.legvander(nodes, degree)))


@lru_cache
def radau(stages: int) -> tuple[Array, Array, Array, Array]:
    """Return -1 and the nodes of Radau on [-1, 1], the matrix of Radau IIA on [0, 1], its eigenvalues and -vectors."""
    nodes = np.append(roots_jacobi(stages - 1, 1.0, 0.0)[0], 1.0)
    integrals = np.stack([legendre.legval(nodes, legendre.legint(row, lbnd=-1)) for row in np.eye(stages)], axis=1)
    A = 0.5 * integrals @ np.linalg.inv(legendre.legvander(nodes, stages - 1))
    return np.append(-1.0, nodes), A, *np.linalg.eig(A)


def coefficients(values: Array) -> Array:
    """Return those of cosines, from values on a uniform grid with both ends; they do not depend on its size."""
    return np.asarray(dct(values, 1, norm="forward"))


def collocated(first: Array, length: float, stages: int) -> Array:
    """Return coefficients (stages + 1, M + 1) at the nodes of a panel, of a solution that begins with `first`."""
    _, A, values, V = radau(stages)
    M = len(first) - 1
    rates = -DIFFUSION * (math.pi * np.arange(M + 1)) ** 2
    inverse, damped = np.linalg.inv(V), 1.0 / (1.0 - length * rates * values[:, None])
    U = np.repeat(first[None], stages, axis=0)
    # Diffusion alone is inverted: the reaction converges by iteration, and so does what V loses by its condition.
    for _ in range(100):
        u = idct(U, 1, norm="forward")
        residual = first + length * (A @ (rates * U + RATE * coefficients(u - u**3))) - U
        change = (V @ (damped * (inverse @ residual))).real
        U = U + change
        if np.abs(change).max() < 1e-15:
            return np.concatenate([first[None], U])
    raise ArithmeticError("the iteration in a panel does not converge")


@dataclass(frozen=True)
class AllenCahn:
    """A solution of ``u_t = 1e-4 u_xx + 5 (u - u^3)``, ``u(0, x) = x^2 cos(pi x)``, with period 2; for t in [0, 1].

    It is even, hence a series of cosines on [0, 1].  Those of the initial value decay as the square of their number:
    before the first panel the closed form `early` is taken, from then on as many as diffusion has left.  A panel is as
    long as the time before it, or 1/8; its values are stored at (times, grid points).  `error` is the largest
    difference from the solution of lower resolution.
    """

    times: Array
    panels: tuple[Array, ...]
    error: float = math.nan

    @classmethod
    def solve(cls, start: float, modes: float, fewest: int, stages: int) -> AllenCahn:
        """Solve from `start`, a power of 1/2, with ``modes / sqrt(t)`` cosines, at least `fewest`."""
        times, U = [start], np.empty((1, 0))
        panels: list[Array] = []
        while times[-1] < 1.0:
            t, length = times[-1], min(times[-1], LONGEST)
            # A power of two: fast to transform.
            M = max(fewest, 2 ** math.ceil(math.log2(modes / math.sqrt(t))))
            if not panels:
                U = coefficients(early(t, np.arange(M + 1) / M))[None]
            U = collocated(U[-1, : M + 1], length, stages)
            # Interpolation needs a finer grid than the series, whose last coefficient has vanished.
            panels.append(idct(np.pad(U, ((0, 0), (0, M))), 1, norm="forward"))
            times.append(t + length)
        return cls(np.array(times), tuple(panels))

    def __call__(self, t: Any, x: Any) -> Array:
        """Evaluate at times and places that broadcast."""
        if np.any(np.less(t, 0.0)) or np.any(np.greater(t, 1.0)):
            raise ValueError("the solution is known for 0 <= t <= 1")
        return in_blocks(self._block, t, x, 20 * len(STENCIL))

    def _block(self, t: Array, x: Array) -> Array:
        x = np.abs((x + 1.0) % 2.0 - 1.0)
        numbers = np.minimum(np.searchsorted(self.times, t, side="right") - 1, len(self.panels) - 1)
        values = np.empty(len(t))
        for number in np.unique(numbers):
            part = np.flatnonzero(numbers == number)
            values[part] = self._panel(number, t[part], x[part]) if number >= 0 else early(t[part], x[part])
        return values

    def _panel(self, number: int, t: Array, x: Array) -> Array:
        panel, (begin, end) = self.panels[number], self.times[number : number + 2]
        M = panel.shape[1] - 1
        cell = np.minimum((M * x).astype(int), M - 1)
        # Even at both ends.
        grid = M - np.abs(M - np.abs(cell[:, None] + STENCIL.astype(int)))
        in_space = lagrange((STENCIL - 0.5) / 5.5, (M * x - cell - 0.5) / 5.5)
        in_time = lagrange(radau(len(panel) - 1)[0], 2.0 * (t - begin) / (end - begin) - 1.0)
        return np.asarray(np.einsum("mi,imj,mj->m", in_time, panel[:, grid], in_space))


@lru_cache
def allen_cahn() -> AllenCahn:
    """Return the solution; its error is measured near the fronts and the kink, from early times on."""
    coarse = AllenCahn.solve(2.0**-15, 128.0, 1024, 10)
    fine = AllenCahn.solve(2.0**-16, 181.0, 2048, 12)
    t = np.concatenate([np.geomspace(2.0**-18, 0.1, 60), np.linspace(0.1, 1.0, 60)])[:, None]
    x = np.concatenate([np.linspace(0.0, 1.0, 200), 1.0 - np.geomspace(1e-6, 0.1, 60)])
    return AllenCahn(fine.times, fine.panels, float(np.abs(fine(t, x) - coarse(t, x)).max()))


# -- Closed forms -----------------------------------------------------------------------------------------------------


def poisson2d(p: Any) -> Any:
    """``-Lap u = f`` on the unit square: ``u = sin(pi x) sin(pi y)``."""
    xp = array_namespace(p)
    return xp.sin(math.pi * p[:, 0]) * xp.sin(math.pi * p[:, 1])


def poisson2d_source(p: Any) -> Any:
    return 2.0 * math.pi**2 * poisson2d(p)


BUMP = (0.6, 0.35, 0.05)  # center and deviation


def poisson2d_bump(p: Any) -> Any:
    """``-Lap u = f`` on the unit square: a narrow Gaussian, of height one; at the boundary it is below 2e-14."""
    return array_namespace(p).exp(-0.5 * ((p[:, 0] - BUMP[0]) ** 2 + (p[:, 1] - BUMP[1]) ** 2) / BUMP[2] ** 2)


def poisson2d_bump_source(p: Any) -> Any:
    square = ((p[:, 0] - BUMP[0]) ** 2 + (p[:, 1] - BUMP[1]) ** 2) / BUMP[2] ** 2
    return (2.0 - square) / BUMP[2] ** 2 * poisson2d_bump(p)


def poisson5d(p: Any) -> Any:
    """``-Lap u = f`` on a unit cube: ``u = sum_i cos(pi x_i)``, in any dimension."""
    xp = array_namespace(p)
    return xp.sum(xp.cos(math.pi * p), axis=1)


def poisson5d_source(p: Any) -> Any:
    return math.pi**2 * poisson5d(p)


def _frequencies(p: Any) -> Any:
    return 0.5 * array_namespace(p).arange(1, 6, dtype=p.dtype, device=device(p))


def poisson5d_product(p: Any) -> Any:
    """``-Lap u = f`` on the unit cube: ``u = exp(-|x - a|^2) prod_i cos(b_i x_i)``, ``a_i = 0.4``, ``b_i = i / 2``."""
    xp, b = array_namespace(p), _frequencies(p)
    return xp.exp(-xp.sum((p - 0.4) ** 2, axis=1)) * xp.prod(xp.cos(b * p), axis=1)


def poisson5d_product_source(p: Any) -> Any:
    xp, b = array_namespace(p), _frequencies(p)
    s, cosines = p - 0.4, xp.cos(b * p)
    # Second derivatives of the factors exp(-s^2) cos(b x), without the exponentials.
    second = (4.0 * s**2 - 2.0 - b**2) * cosines + 4.0 * s * b * xp.sin(b * p)
    # In row i of a point the factor i is replaced: cosines may vanish, so nothing is divided.
    own = xp.eye(5, dtype=p.dtype, device=device(p)) > 0.5
    products = xp.prod(xp.where(own, second[:, None, :], cosines[:, None, :]), axis=2)
    return -xp.exp(-xp.sum(s**2, axis=1)) * xp.sum(products, axis=1)


def heat1d(p: Any) -> Any:
    """``u_t = u_xx / 4`` on [0, 1], zero at both ends."""
    xp = array_namespace(p)
    return xp.exp(-0.25 * math.pi**2 * p[:, 1]) * xp.sin(math.pi * p[:, 0])


def convection(p: Any) -> Any:
    """``u_t + 40 u_x = 0``, periodic on [0, 2 pi]."""
    return array_namespace(p).sin(p[:, 0] - 40.0 * p[:, 1])


def reaction(p: Any) -> Any:
    """``u_t = 5 u (1 - u)``, on [0, 2 pi], from a Gaussian around pi with deviation pi / 4."""
    xp = array_namespace(p)
    h = xp.exp(-((p[:, 0] - math.pi) ** 2) / (2.0 * (0.25 * math.pi) ** 2))
    return h / (h + (1.0 - h) * xp.exp(-5.0 * p[:, 1]))


def wave(p: Any) -> Any:
    """``u_tt = 4 u_xx`` on [0, 1], zero at both ends, at first at rest."""
    xp, x, t = array_namespace(p), math.pi * p[:, 0], math.pi * p[:, 1]
    return xp.sin(x) * xp.cos(2.0 * t) + 0.5 * xp.sin(5.0 * x) * xp.cos(10.0 * t)


WAVENUMBER = 6.0 * math.pi


def helmholtz2d(p: Any) -> Any:
    """``-Lap u - k^2 u = f`` on the unit square, ``k = 6 pi``: ``x (1 - x) y (1 - y) exp(x) cos(k (x + y / 3))``."""
    xp, x, y = array_namespace(p), p[:, 0], p[:, 1]
    return x * (1.0 - x) * y * (1.0 - y) * xp.exp(x) * xp.cos(WAVENUMBER * (x + y / 3.0))


def helmholtz2d_source(p: Any) -> Any:
    xp, x, y, k = array_namespace(p), p[:, 0], p[:, 1], WAVENUMBER
    # u = exp(x) a(x) b(y) cos(phase); the derivatives of exp(x) a(x) are exp(x) times these.
    a, first, second, b = x * (1.0 - x), 1.0 - x - x**2, -x * (x + 3.0), y * (1.0 - y)
    phase = k * (x + y / 3.0)
    even = -second * b + 2.0 * a + k**2 / 9.0 * a * b
    odd = 2.0 * k * (first * b + a * (1.0 - 2.0 * y) / 3.0)
    return xp.exp(x) * (even * xp.cos(phase) + odd * xp.sin(phase))


if __name__ == "__main__":
    random = np.random.default_rng(0)
    points = random.uniform(size=100_000), random.uniform(-1.0, 1.0, 100_000)
    clock = [time.perf_counter()]
    for call in (lambda: burgers(*points), allen_cahn, lambda: allen_cahn()(*points)):
        call()
        clock.append(time.perf_counter())
    change = np.abs(burgers(*points, nodes=400) - burgers(*points)).max()
    print("seconds for burgers at 100 000 points, allen_cahn, its values there:", np.diff(clock).round(2))
    print(f"twice the nodes change burgers by {change:.1e}, lower resolution allen_cahn by {allen_cahn().error:.1e}")
