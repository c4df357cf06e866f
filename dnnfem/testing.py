"""Checks for parts of one's own: the functions that the library's tests use.

Each check raises an `AssertionError` that says what failed and by how much, and returns what it measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dnnfem.functionals import Functional, Linearization, Norm
from dnnfem.functionals.trajectories import registers
from dnnfem.kernels.reference import evaluate
from dnnfem.records import Array
from dnnfem.spaces import Transfer, space_from_attributes
from dnnfem.spaces.layout import NetworkSpace

__all__ = [
    "adjoint_test",
    "check_functional",
    "check_norm",
    "check_refinement",
    "check_space",
    "convergence_order",
    "symmetry_test",
    "taylor_test",
]


def convergence_order(sizes: Sequence[float] | Array, errors: Sequence[float] | Array) -> Array:
    """Return the observed orders between neighbouring pairs, ``log(e_i/e_{i+1}) / log(h_i/h_{i+1})``.

    Parameters
    ----------
    sizes, errors : array, shape (k,)
        Sizes of meshes, lengths of steps, ..., and the errors that belong to them; positive.

    Returns
    -------
    array, shape (k - 1,)
        Orders.

    Examples
    --------
    >>> testing.convergence_order([0.4, 0.2, 0.1], [0.16, 0.04, 0.01])
    array([2., 2.])
    """
    h, e = np.asarray(sizes, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    return np.log(e[:-1] / e[1:]) / np.log(h[:-1] / h[1:])


def taylor_test(
    functional: Functional,
    x: Array,
    direction: Array | None = None,
    order: int = 2,
    step: float = 1e-1,
    seed: int = 0,
) -> float:
    """Check the remainder of the Taylor polynomial along a direction.

    Parameters
    ----------
    functional : Functional
    x : array, shape (dim,)
    direction : array, shape (dim,), optional
        Default: random, of length ``max(1, |x|)``.
    order : int
        2 checks value and derivative, 3 the Hessian too.
    step : float
        Largest step; seven halvings follow.
    seed : int
        Of the random direction.

    Returns
    -------
    float
        The observed order: the median over the halvings before rounding takes over.

    Examples
    --------
    >>> J = fem.from_callables(1, value=lambda x: np.exp(x[0]), derivative=lambda x: np.exp(x))
    >>> round(testing.taylor_test(J, np.zeros(1)), 1)
    2.0
    """
    if direction is None:
        direction = np.random.default_rng(seed).standard_normal(x.size)
        direction *= max(1.0, float(np.linalg.norm(x))) / np.linalg.norm(direction)
    here = functional.linearize(x)
    slope = float(here.derivative @ direction)
    bend = float(direction @ here.hessian(direction)) if order == 3 else 0.0
    steps = step * 0.5 ** np.arange(8)
    remainder = np.array(
        [abs(functional.value(x + t * direction) - here.value - t * slope - 0.5 * t * t * bend) for t in steps]
    )
    rounding = 100.0 * np.finfo(float).eps * max(abs(here.value), abs(slope) * step, np.finfo(float).tiny)
    assert np.isfinite(remainder).all(), f"Taylor remainder is not finite: {remainder}"
    usable = remainder > rounding
    if np.count_nonzero(usable) < 3:
        # The polynomial is exact, as for a functional of that degree: nothing is left to measure.
        return float(order)
    observed = float(np.median(convergence_order(steps[usable].astype(np.float64), remainder[usable])))
    assert observed > order - 0.3, f"Taylor remainder of order {observed:.2f}, expected {order}: {remainder}"
    return observed


def adjoint_test(
    forward: Callable[[Array], Array],
    adjoint: Callable[[Array], Array],
    shape: tuple[int, int],
    rtol: float = 1e-12,
    seed: int = 0,
) -> float:
    """Check ``<A v, w> = <v, A^T w>`` for a linear map.

    Parameters
    ----------
    forward, adjoint : callable
        ``v -> A v`` and ``w -> A^T w``.
    shape : (int, int)
        Rows and columns of ``A``.
    rtol : float
        Relative difference that is allowed.
    seed : int
        Of the random vectors.

    Returns
    -------
    float
        The relative difference.
    """
    random = np.random.default_rng(seed)
    v, w = random.standard_normal(shape[1]), random.standard_normal(shape[0])
    av, aw = forward(v), adjoint(w)
    scale = np.linalg.norm(av) * np.linalg.norm(w) + np.linalg.norm(v) * np.linalg.norm(aw) + np.finfo(float).tiny
    difference = abs(float(av @ w) - float(v @ aw)) / float(scale)
    assert difference <= rtol, f"<A v, w> and <v, A^T w> differ by {difference:.2e}, allowed {rtol:.0e}"
    return difference


def symmetry_test(operator: Callable[[Array], Array], dim: int, rtol: float = 1e-12, seed: int = 0) -> float:
    """Check ``<H v, w> = <v, H w>``.

    Parameters
    ----------
    operator : callable
        ``v -> H v``.
    dim : int
        Length of the vectors.
    rtol : float
        Relative difference that is allowed.
    seed : int
        Of the random vectors.

    Returns
    -------
    float
        The relative difference.
    """
    return adjoint_test(operator, operator, (dim, dim), rtol, seed)


def check_space(space: NetworkSpace, seed: int = 0) -> None:
    """Check that a space is what the rest of the library relies on.

    The starting point must be finite and depend on the seed alone, the program must fit, the space must survive its
    attributes, and the outputs must be affine in the condensable coefficients.

    Parameters
    ----------
    space : NetworkSpace
    seed : int
        Of the starting point.
    """
    x = space.initial(seed)
    assert x.shape == (space.dim,) and np.isfinite(x).all(), "initial: not a finite vector of the space"
    assert np.array_equal(x, space.initial(seed)), "initial: two calls with one seed differ"
    program = space.program
    outputs = space.outputs + getattr(space, "unknowns", 0)
    assert (program.inputs, program.outputs, program.dim) == (space.inputs, outputs, space.dim), "program does not fit"
    attributes = space.attributes()
    rebuilt = space_from_attributes(attributes)
    if type(rebuilt) is not type(space):
        rebuilt = type(space)(**{name: value for name, value in attributes.items() if name != "kind"})
    assert rebuilt == space, "attributes: the space rebuilt from them differs"
    columns = space.condensable
    if columns is None:
        return
    evaluated = _outputs(space)
    points = np.random.default_rng(seed).uniform(-1.0, 1.0, (7, space.inputs))
    step = np.zeros(space.dim)
    step[columns.ravel()] = np.random.default_rng(seed).standard_normal(columns.size)
    first, second, third = (evaluated(x + t * step, points) for t in (0.0, 1.0, 2.0))
    bend = float(np.abs(third - 2.0 * second + first).max())
    assert bend <= 1e-10 * (1.0 + float(np.abs(third).max())), f"condensable: outputs are not affine, {bend:.2e}"


def _outputs(space: NetworkSpace) -> Callable[[Array, Array], Array]:
    def outputs(x: Array, points: Array) -> Array:
        if space.program.is_opaque:
            return registers(space.program, x, points)[-1]
        return np.asarray(evaluate(space.program, x, points)[frozenset()][0])

    return outputs


def check_norm(norm: Norm, seed: int = 0, rtol: float = 1e-9) -> None:
    """Check symmetry, definiteness, ``riesz(apply(v)) = v``, duality, and that `root` and `whiten` fit to `apply`.

    Parameters
    ----------
    norm : Norm
    seed : int
        Of the random vectors.
    rtol : float
        Relative difference that is allowed.
    """
    random = np.random.default_rng(seed)
    symmetry_test(norm.apply, norm.dim, rtol, seed)
    v, w = random.standard_normal(norm.dim), random.standard_normal(norm.dim)
    back = float(np.linalg.norm(norm.riesz(norm.apply(v)) - v) / np.linalg.norm(v))
    assert back <= max(rtol, 1e-6), f"riesz(apply(v)) differs from v by {back:.2e}"
    assert norm.inner(v, v) > 0.0, "the norm is not positive"
    dual = norm.apply(v)
    assert abs(norm.dual_norm(dual) / norm.norm(v) - 1.0) <= 1e-6, "dual_norm(apply(v)) differs from norm(v)"
    assert abs(dual @ w) <= norm.norm(v) * norm.norm(w) * (1.0 + rtol), "Cauchy's inequality is violated"
    root = norm.root() @ v
    assert abs(float(root @ root) / norm.inner(v, v) - 1.0) <= rtol, "root: |root v|^2 differs from inner(v, v)"
    white = norm.whiten(np.eye(norm.dim))
    assert np.allclose(white @ norm.root(), np.eye(norm.dim), rtol=0, atol=1e-6), "whiten is not the inverse of root"
    assert np.allclose(norm.unwhiten(root), v, rtol=1e-6, atol=1e-8), "unwhiten(root v) differs from v"


def check_functional(functional: Functional, x: Array, seed: int = 0, smooth: bool = True) -> None:
    """Check value, derivative and products of a functional at `x`.

    Taylor orders 2 and (if `smooth`) 3, symmetry of Hessian and curvature, the curvature positive semidefinite, several
    directions at once, and agreement of the least-squares system with all of them.

    Parameters
    ----------
    functional : Functional
    x : array, shape (dim,)
        A point of its space.
    seed : int
        Of the random vectors.
    smooth : bool
        Whether there are third derivatives.
    """
    linearization = functional.linearize(x)
    dim = functional.space.dim
    assert abs(functional.value(x) - linearization.value) <= 1e-13 * (1.0 + abs(linearization.value)), "values differ"
    taylor_test(functional, x, order=3 if smooth else 2, step=1e-2, seed=seed)
    random = np.random.default_rng(seed)
    v = random.standard_normal((dim, 3))
    for name, product in (("hessian", linearization.hessian), ("curvature", linearization.curvature)):
        symmetry_test(product, dim, 1e-11, seed)
        several = product(v)
        single = np.column_stack([product(column) for column in v.T])
        assert np.allclose(several, single, rtol=1e-11, atol=1e-13 * np.abs(single).max()), f"{name}: columns differ"
    _check_mixed(functional, linearization, v[:, 0], smooth)
    bent, gram = linearization.curvature(v), linearization.gram()
    assert np.allclose(gram @ v, bent, rtol=1e-9, atol=1e-10 * np.abs(bent).max()), "gram: not that of the curvature"
    roots = np.sqrt(np.diagonal(gram))
    rough = np.abs(linearization.gram(single=True) - gram) <= 1e-5 * np.outer(roots, roots) + 1e-10 * np.abs(gram).max()
    assert rough.all(), "gram: not the same in single precision"
    bend = np.sum(v * bent, axis=0)
    assert (bend >= -1e-13 * np.abs(bend).max()).all(), f"curvature: not positive semidefinite, {bend.min():.2e}"
    system = linearization.system()
    if system is not None:
        # A loss law has a system with its derivative and curvature, but is no sum of squares.
        squares = linearization.residual() is not None
        assert not squares or abs(system.value - linearization.value) <= 1e-10 * (1.0 + abs(linearization.value)), (
            "system: value"
        )
        scale = float(np.abs(linearization.derivative).max()) + np.finfo(float).tiny
        assert np.allclose(system.derivative, linearization.derivative, rtol=1e-9, atol=1e-10 * scale), (
            "system: derivative"
        )
        bent = linearization.curvature(v)
        assert np.allclose(system.curvature(v), bent, rtol=1e-9, atol=1e-10 * np.abs(bent).max()), "system: curvature"


def _check_mixed(functional: Functional, linearization: Linearization, v: Array, smooth: bool) -> None:
    """Check that ``A^T r(x + s)`` is the derivative at ``s = 0``, and changes by the curvature to first order."""
    x, here = linearization.x, linearization.mixed(linearization)
    assert (here is None) == (linearization.residual() is None), "mixed: expected where there are residuals"
    if here is None:
        return
    scale = float(np.abs(here).max()) + np.finfo(float).tiny
    assert np.allclose(here, linearization.derivative, rtol=1e-9, atol=1e-10 * scale), "mixed: not the derivative"
    errors = []
    for h in (1e-2, 5e-3) if smooth else ():
        there = linearization.mixed(functional.linearize(x + h * v))
        assert there is not None, "mixed: None elsewhere"
        errors.append(float(np.abs(there - here - h * linearization.curvature(v)).max()))
    assert not errors or errors[1] <= 0.3 * errors[0] + 1e-10 * scale, f"mixed: not to second order, {errors}"


def check_refinement(
    coarse: NetworkSpace, fine: NetworkSpace, transfer: Transfer, x: Array, seed: int = 0, rtol: float = 1e-12
) -> None:
    """Check that a refinement keeps the function, and that its transfer is consistent.

    Parameters
    ----------
    coarse, fine : NetworkSpace
        Before and after the refinement.
    transfer : Transfer
        From `coarse` to `fine`.
    x : array, shape (dim,)
        Coefficients on `coarse`.
    seed : int
        Of the random vectors.
    rtol : float
        Relative change of the function that is allowed.
    """
    assert transfer.shape == (fine.dim, coarse.dim), (
        f"transfer: shape {transfer.shape}, expected {(fine.dim, coarse.dim)}"
    )
    points = np.random.default_rng(seed).uniform(-1.0, 1.0, (20, coarse.inputs))
    before, after = _outputs(coarse)(x, points), _outputs(fine)(transfer(x), points)
    difference = float(np.abs(before - after).max() / (np.abs(before).max() + np.finfo(float).tiny))
    assert difference <= rtol, f"the function changes by {difference:.2e} (relative), allowed {rtol:.0e}"
    adjoint_test(lambda s: transfer @ s, lambda g: np.asarray(transfer.T @ g), transfer.shape)
    back = transfer.project(transfer(x))
    assert np.allclose(back, x, rtol=1e-9, atol=1e-9), "project(P(x)) differs from x"
