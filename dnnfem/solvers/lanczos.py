"""The Lanczos process in the inner product of a norm, and the steps of large models that come from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import scipy.linalg

from dnnfem.functionals import Norm
from dnnfem.records import Array
from dnnfem.solvers.krylov import InnerStep, check_derivative, check_radius
from dnnfem.solvers.secular import Ball, Bound, Diagonal, Minimizer

MEMORY = 2**27
"""Bytes of Lanczos vectors that are kept; those beyond are computed a second time when they are needed."""

CLOSED = 1e-12
"""The Krylov space is invariant if the next vector, before it is normalized, is that short relative to ``H``."""

SLIGHT = 0.25
"""Part of the decrease of a step up to which what bounds it hardly matters."""

SELDOM = 16
"""A large tridiagonal model is solved whenever it has grown by this part: that costs as much as many products."""


class Lanczos:
    """Basis ``q_0, ..., q_k`` of the Krylov space of ``M^-1 H`` and ``M^-1 g``, in which ``H`` is tridiagonal.

        H q_j = beta_j M q_(j-1) + alpha_j M q_j + beta_(j+1) M q_(j+1),    <M q_i, q_j> = delta_ij.

    Vectors that are kept are orthogonal to rounding, those beyond the memory orthogonal to them and their neighbours.

    Parameters
    ----------
    hessian : callable
        ``d -> H d``, primal to dual, symmetric.
    derivative : array, shape (dim,)
        ``g``, dual.
    norm : Norm
    memory : int
        Bytes for vectors; at least two are kept.
    """

    def __init__(self, hessian: Callable[[Array], Array], derivative: Array, norm: Norm, memory: int = MEMORY) -> None:
        primal = norm.riesz(derivative)
        self.hessian, self.norm = hessian, norm
        self.size = math.sqrt(max(float(derivative @ primal), 0.0))
        """Dual norm of the derivative."""
        self.alpha: list[float] = []
        self.beta: list[float] = []
        """``beta_1, ..., beta_k``: the last one leads out of the space."""
        self.products = 0
        """Products with ``H`` so far."""
        self.closed = not 0.0 < self.size < math.inf
        """Whether the space cannot grow."""
        self.finite = math.isfinite(self.size)
        """Whether the derivative and all products were finite; steps are zero otherwise."""
        self._scale = 0.0
        # Where the Riesz map is the identity, dual vectors are primal ones.
        self._same = primal is derivative
        self._kept = max(2, memory // (8 * derivative.size * (1 if self._same else 2)))
        self._primal = np.empty((0, derivative.size))
        self._dual = self._primal
        if not self.closed:
            self._now = primal / self.size, derivative / self.size
            self._before = np.zeros_like(primal), np.zeros_like(primal)
            self._keep(0)

    @property
    def dim(self) -> int:
        """Dimension of the space."""
        return len(self.alpha)

    def vector(self, number: int) -> Array:
        """Return a vector of the basis, primal: one that is kept, or that the next product is with."""
        return self._now[0] if number == self.dim and not self.closed else self._primal[number]

    def _keep(self, number: int) -> None:
        if number >= self._kept:
            return
        if number >= len(self._primal):
            room = min(self._kept, max(8, 2 * number))
            self._primal = _longer(self._primal, room)
            self._dual = self._primal if self._same else _longer(self._dual, room)
        self._primal[number] = self._now[0]
        if not self._same:
            self._dual[number] = self._now[1]

    def _image(self, number: int, now: tuple[Array, Array], before: tuple[Array, Array]) -> tuple[Array, float]:
        """Return the part of ``H q_number`` that leads out of the space, dual, and ``alpha``."""
        self.products += 1
        image = self.hessian(now[0])
        alpha = float(image @ now[0])
        image = image - alpha * now[1]
        if number > 0:
            image -= self.beta[number - 1] * before[1]
        known = min(number + 1, self._kept)
        for _ in range(2):
            image -= (self._primal[:known] @ image) @ self._dual[:known]
        return image, alpha

    def grow(self) -> None:
        """Enlarge the space by one product."""
        image, alpha = self._image(self.dim, self._now, self._before)
        primal = self.norm.riesz(image)
        beta = math.sqrt(max(float(image @ primal), 0.0)) if np.isfinite(image).all() else math.nan
        self.alpha.append(alpha)
        self.beta.append(beta)
        self.finite = math.isfinite(alpha) and math.isfinite(beta)
        self._scale = max(self._scale, abs(alpha), beta)
        if not beta > CLOSED * self._scale:
            self.closed = True
            return
        self._before, self._now = self._now, (primal / beta, image / beta)
        self._keep(self.dim)

    def steepest(self) -> float:
        """Return the curvature along steepest descent."""
        if self.dim == 0 and not self.closed:
            self.grow()
        return self.alpha[0] if self.alpha else math.nan

    def combine(self, coordinates: Array) -> Array:
        """Return ``sum_j y_j q_j``, with a second pass for vectors that were not kept."""
        count = coordinates.size
        kept = min(count, self._kept)
        step = coordinates[:kept] @ self._primal[:kept]
        if count > kept:
            before, now = ((self._primal[j].copy(), self._dual[j].copy()) for j in (kept - 2, kept - 1))
            for number in range(kept - 1, count - 1):
                image, _ = self._image(number, now, before)
                beta = self.beta[number]
                before, now = now, (self.norm.riesz(image) / beta, image / beta)
                step = step + coordinates[number + 1] * now[0]
        return np.asarray(step)

    def minimize(self, bound: Bound) -> tuple[Minimizer, float, float]:
        """Return the minimizer in the space, the dual norm of what is left of the derivative, and Newton's promise."""
        curvatures, basis = scipy.linalg.eigh_tridiagonal(np.array(self.alpha), np.array(self.beta[:-1]))
        diagonal = Diagonal(curvatures, self.size * basis[0])
        y = diagonal.minimize(bound)
        coordinates = basis @ y.coordinates
        # What stands for zero in the space cannot be told from it.
        left = self.beta[-1] * abs(float(coordinates[-1]))
        found = Minimizer(coordinates, y.decrease, y.multiplier, y.length, y.boundary, y.negative)
        return found, left, diagonal.promise


def _longer(rows: Array, count: int) -> Array:
    longer = np.empty((count, rows.shape[1]))
    longer[: len(rows)] = rows
    return longer


def within(
    lanczos: Lanczos, bound: Bound, accuracy: float, rough: float, max_iterations: int
) -> tuple[InnerStep, float]:
    """Minimize a model with a bound in Krylov spaces that grow until the step is accurate enough.

    The step is the minimizer in the space; what it leaves of the derivative, ``|(H + s M) d + g|_*``, is known without
    a product.  That has to be a small part of the larger one of ``|g|_*`` and ``s |d|``.

    Parameters
    ----------
    lanczos : Lanczos
        Its space is used as it is, and enlarged if need be: steps of other bounds at the same point cost little.
    bound : Bound
    accuracy, rough : float
        The part that may be left, of steps that the bound hardly matters for and of others.
    max_iterations : int
        Largest dimension.

    Returns
    -------
    InnerStep
    float
        Decrease that a step of Newton's method promises in the space; infinite if the model has no minimizer there, or
        is not finite.
    """
    before = lanczos.products
    if lanczos.dim == 0 and not lanczos.closed:
        lanczos.grow()
    while lanczos.finite and lanczos.dim > 0:
        y, left, promise = lanczos.minimize(bound)
        slight = y.multiplier * y.length**2 <= SLIGHT * y.decrease
        goal = (accuracy if slight else rough) * max(lanczos.size, y.multiplier * y.length)
        if left <= goal or lanczos.closed or lanczos.dim >= max_iterations:
            step = lanczos.combine(y.coordinates)
            used = lanczos.products - before
            return InnerStep(step, y.decrease, y.boundary, y.negative, used, y.multiplier), promise
        for _ in range(max(1, lanczos.dim // SELDOM)):
            if not lanczos.closed and lanczos.dim < max_iterations:
                lanczos.grow()
    nothing = InnerStep(np.zeros(lanczos.norm.dim), 0.0, False, False, lanczos.products - before, 0.0)
    return nothing, 0.0 if lanczos.size == 0.0 else math.inf


def _interior(lanczos: Lanczos, radius: float, accuracy: float, max_iterations: int) -> InnerStep | None:
    """Return the step of truncated conjugate gradients; None if they leave the ball or meet negative curvature.

    They solve the tridiagonal system by ``T = L D L^T``, and need three vectors, whatever the dimension.
    """
    step = direction = np.zeros(lanczos.norm.dim)
    pivot, decrease = math.inf, 0.0
    # |d|^2, <d, p> and |p|^2 for the step d and the direction p.
    dd = dp = pp = 0.0
    load = -lanczos.size
    for number in range(max_iterations):
        if number == lanczos.dim and lanczos.closed:
            break
        latest = lanczos.vector(number)
        if number == lanczos.dim:
            lanczos.grow()
        beta = lanczos.beta[number - 1] if number > 0 else 0.0
        factor = beta / pivot
        load *= -factor if number > 0 else 1.0
        pivot = lanczos.alpha[number] - factor * beta
        direction = latest - factor * direction
        dp, pp = -factor * dp, 1.0 + factor * factor * pp
        length = load / pivot if pivot > 0.0 else math.inf
        if not pivot > 0.0 or dd + length * (2.0 * dp + length * pp) >= radius * radius:
            if math.isfinite(radius):
                return None
            # An unbounded model: what was found before is all that can be said.
            break
        step = step + length * direction
        dd, dp = dd + length * (2.0 * dp + length * pp), dp + length * pp
        gain = 0.5 * length * load
        decrease += gain
        if gain <= accuracy**2 * decrease:
            break
    return InnerStep(step, decrease, False, False, lanczos.products, 0.0)


def gltr(
    hessian: Callable[[Array], Array],
    derivative: Array,
    norm: Norm,
    radius: float,
    accuracy: float,
    max_iterations: int,
) -> InnerStep:
    """Minimize a quadratic model within ``|d| <= radius``: conjugate gradients that go on along the boundary.

    As long as they stay inside these are those of `dnnfem.solvers.steihaug`, with the same end.  From where they leave
    the ball or meet negative curvature on, the step is the minimizer in the ball and the Krylov space, until what is
    left of the derivative is small.

    Parameters
    ----------
    hessian : callable
        ``d -> H d``, primal to dual, symmetric.
    derivative : array, shape (dim,)
        ``g``, dual.
    norm : Norm
        Its Riesz map is the preconditioner, its length the one that `radius` bounds.
    radius : float
        May be infinite.
    accuracy : float
        Relative energy error aimed at in the interior; on the boundary the size of ``(H + s M) d + g``, relative to the
        larger one of its parts ``|g|_*`` and ``s |d|``.
    max_iterations : int
        At most this many products, unless the memory for Lanczos vectors (`MEMORY`) does not suffice: those that are
        left out then cost another one each.

    Returns
    -------
    InnerStep
        The step, and why the iteration ended.

    Raises
    ------
    ValueError
        If `derivative` is not finite, or `radius` not positive.

    References
    ----------
    Gould, Lucidi, Roma and Toint, SIAM J. Optim. 9 (1999) 504-525.
    """
    check_derivative(derivative)
    check_radius(radius)
    return truncated(Lanczos(hessian, derivative, norm), radius, accuracy, accuracy, max_iterations)


def truncated(lanczos: Lanczos, radius: float, accuracy: float, rough: float, max_iterations: int) -> InnerStep:
    """Return the step of `gltr` from a process that may have served another radius."""
    before = lanczos.products
    # One vector may be there already, from the curvature along steepest descent.
    step = _interior(lanczos, radius, accuracy, max_iterations) if lanczos.dim <= 1 else None
    if step is None:
        step, _ = within(lanczos, Ball(radius), accuracy, max(accuracy, rough), max_iterations)
    return replace(step, iterations=lanczos.products - before)
