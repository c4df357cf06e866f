"""The public checks find planted errors: a check that cannot fail checks nothing."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest

from dnnfem.functionals import from_callables
from dnnfem.kernels.least_squares import DenseLeastSquares
from dnnfem.norms import Euclidean, Norm, Weighted
from dnnfem.refinement import widen
from dnnfem.spaces import Coordinates, FeedforwardSpace, Transfer
from dnnfem.spaces.feedforward import Neuron
from dnnfem.testing import (
    adjoint_test,
    check_functional,
    check_norm,
    check_refinement,
    check_space,
    convergence_order,
    symmetry_test,
    taylor_test,
)

MATRIX = np.array([[2.0, 1.0], [1.0, 3.0]])


def smooth(derivative=None, hessian=None):
    """Return a functional, perhaps with a wrong derivative or Hessian."""
    return from_callables(
        2,
        lambda x: float(np.sin(x[0]) + 0.5 * x @ MATRIX @ x + x[1] ** 3),
        derivative or (lambda x: np.array([np.cos(x[0]), 3 * x[1] ** 2]) + MATRIX @ x),
        hessian or (lambda x, v: np.array([-np.sin(x[0]) * v[0], 6 * x[1] * v[1]]) + MATRIX @ v),
    )


POINT = np.array([0.3, 0.8])


def test_orders_are_those_of_the_powers():
    sizes = 0.5 ** np.arange(5)
    for order in (0.5, 1.0, 2.0, 4.0):
        assert convergence_order(sizes, 7.0 * sizes**order) == pytest.approx([order] * 4)
    assert convergence_order([1.0, 0.1, 0.05], [1.0, 0.01, 0.0025]) == pytest.approx([2.0, 2.0])


@pytest.mark.parametrize("order", [2, 3])
def test_taylor_measures_the_order_of_a_right_functional(order):
    assert taylor_test(smooth(), POINT, order=order) == pytest.approx(order, abs=0.2)
    assert taylor_test(smooth(), POINT, np.array([1.0, -2.0]), order=order) == pytest.approx(order, abs=0.2)


def test_taylor_accepts_a_polynomial_of_lower_degree():
    square = from_callables(2, lambda x: float(x @ x), lambda x: 2 * x, lambda x, v: 2 * v)
    assert taylor_test(square, POINT, order=3) == 3.0


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: 1.01 * (np.array([np.cos(x[0]), 3 * x[1] ** 2]) + MATRIX @ x),
        lambda x: np.zeros(2),
        lambda x: np.full(2, np.nan),
        lambda x: np.array([np.cos(x[0]), 3 * x[1] ** 2]) + MATRIX @ x + [0.0, 3e-2],
    ],
    ids=["scaled", "zero", "NaN", "slightly off"],
)
def test_taylor_finds_a_wrong_derivative(wrong):
    with pytest.raises(AssertionError, match="Taylor"):
        taylor_test(smooth(derivative=wrong), POINT)


@pytest.mark.parametrize("wrong", [lambda x, v: 1.1 * MATRIX @ v, lambda x, v: v * np.nan], ids=["other", "NaN"])
def test_taylor_finds_a_wrong_hessian(wrong):
    taylor_test(smooth(hessian=wrong), POINT, order=2)
    with pytest.raises(AssertionError, match="Taylor"):
        taylor_test(smooth(hessian=wrong), POINT, order=3)


def test_adjointness_and_symmetry_find_what_is_not_the_transpose():
    a = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert adjoint_test(lambda v: a @ v, lambda w: a.T @ w, (2, 3)) <= 1e-14
    assert symmetry_test(lambda v: MATRIX @ v, 2) <= 1e-14
    with pytest.raises(AssertionError, match=r"<A v, w> and <v, A\^T w> differ"):
        adjoint_test(lambda v: a @ v, lambda w: 1.001 * a.T @ w, (2, 3))
    with pytest.raises(AssertionError, match="differ"):
        symmetry_test(lambda v: np.array([[2.0, 1.0], [1.001, 3.0]]) @ v, 2)
    with pytest.raises(AssertionError, match="differ"):
        symmetry_test(lambda v: v * np.nan, 2)


@dataclass(frozen=True)
class Planted:
    """A linearization with single attributes replaced."""

    original: object
    changes: dict

    def __getattr__(self, name):
        return self.changes[name] if name in self.changes else getattr(self.original, name)


@dataclass(frozen=True)
class Broken:
    """A functional whose linearizations are planted."""

    original: object
    change: object

    @property
    def space(self):
        return self.original.space

    def value(self, x):
        return self.original.value(x)

    def linearize(self, x):
        linearization = self.original.linearize(x)
        return Planted(linearization, self.change(linearization))


def asymmetric(linearization):
    """Add a small skew part."""
    skew = 1e-6 * np.triu(np.ones((linearization.x.size,) * 2), 1)
    return lambda v: linearization.hessian(v) + skew @ v


def one_column_wrong(product):
    """Spoil the last of several columns."""
    return lambda v: (
        product(v) * np.where(np.arange(v.shape[1]) == v.shape[1] - 1, 1.01, 1.0) if v.ndim == 2 else product(v)
    )


FUNCTIONAL_ERRORS = {
    "value": lambda lin: {"value": lin.value + 1e-6},
    "derivative": lambda lin: {"derivative": 1.01 * lin.derivative},
    "Hessian": lambda lin: {"hessian": lambda v: 1.1 * lin.hessian(v)},
    "asymmetric Hessian": lambda lin: {"hessian": asymmetric(lin)},
    "asymmetric curvature": lambda lin: {
        "curvature": lambda v: lin.curvature(v) + np.triu(np.ones((v.shape[0],) * 2), 1) @ v
    },
    "negative curvature": lambda lin: {"curvature": lambda v: -lin.curvature(v)},
    "several directions": lambda lin: {"hessian": one_column_wrong(lin.hessian)},
    "system derivative": lambda lin: {
        "system": lambda: DenseLeastSquares(lin.system().matrix, 1.01 * lin.system().residual),
    },
    "system curvature": lambda lin: {
        "system": lambda: DenseLeastSquares(2.0 * lin.system().matrix, 0.5 * lin.system().residual),
    },
    "system value": lambda lin: {
        "system": lambda: DenseLeastSquares(
            np.vstack([lin.system().matrix, np.zeros(lin.x.size)]), np.append(lin.system().residual, 0.1)
        ),
    },
}


@pytest.mark.parametrize("error", FUNCTIONAL_ERRORS)
def test_the_check_of_functionals_finds(error, scalar_problem, space):
    x = space.initial(0)
    original = scalar_problem.on(space)
    check_functional(original, x)
    check_functional(Broken(original, lambda lin: {}), x)
    with pytest.raises(AssertionError):
        check_functional(Broken(original, FUNCTIONAL_ERRORS[error]), x)


def test_the_check_of_functionals_leaves_the_third_order_out_where_there_is_none():
    kink = from_callables(
        1, lambda x: float(abs(x[0]) ** 2.5), lambda x: 2.5 * np.sign(x) * abs(x) ** 1.5, lambda x, v: v * 0
    )
    check_functional(kink, np.array([0.0]), smooth=False)
    with pytest.raises(AssertionError, match="Taylor"):
        check_functional(kink, np.array([0.0]), smooth=True)


class PlantedNorm(Norm):
    """The weighted norm with single methods replaced."""

    dim = 3

    def __init__(self, **changes):
        self.good = Weighted(Coordinates(3), np.array([1.0, 2.0, 4.0]))
        self.changes = changes

    def _use(self, name, *arguments):
        return self.changes.get(name, getattr(self.good, name))(*arguments)

    def apply(self, v):
        return self._use("apply", v)

    def riesz(self, g):
        return self._use("riesz", g)

    def root(self):
        return self._use("root")

    def whiten(self, rows):
        return self._use("whiten", rows)

    def unwhiten(self, y):
        return self._use("unwhiten", y)


SKEW = np.array([[1.0, 0.1, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 4.0]])
NORM_ERRORS = {
    "an asymmetric matrix": {"apply": lambda v: SKEW @ v, "riesz": lambda g: np.linalg.solve(SKEW, g)},
    "a wrong Riesz map": {"riesz": lambda g: g},
    "an indefinite matrix": {"apply": lambda v: -v, "riesz": lambda g: -g},
    "a wrong root": {"root": lambda: np.eye(3)},
    "a wrong whitening": {"whiten": lambda rows: rows},
    "a wrong map back": {"unwhiten": lambda y: y},
    "NaN": {"apply": lambda v: v * np.nan},
}


@pytest.mark.parametrize("error", NORM_ERRORS)
def test_the_check_of_norms_finds(error):
    check_norm(PlantedNorm())
    with pytest.raises(AssertionError):
        check_norm(PlantedNorm(**NORM_ERRORS[error]))


def test_the_check_of_norms_finds_wrong_lengths():
    class Long(Euclidean):
        def norm(self, v):
            return 1.1 * super().norm(v)

    class Short(Euclidean):
        def dual_norm(self, g):
            return 0.9 * super().dual_norm(g)

    for norm in (Long(Coordinates(3)), Short(Coordinates(3))):
        with pytest.raises(AssertionError, match="dual_norm"):
            check_norm(norm)


class PlantedSpace(FeedforwardSpace):
    """A good space, to be spoiled by its descendants."""


class WrongShape(PlantedSpace):
    """A starting point of another length."""

    def initial(self, seed=0):
        return super().initial(seed)[:-1]


class NotFinite(PlantedSpace):
    """A starting point with NaN."""

    def initial(self, seed=0):
        return super().initial(seed) * np.nan


class Stateful(PlantedSpace):
    """A starting point that depends on how often it was asked for."""

    calls: list = []  # noqa: RUF012

    def initial(self, seed=0):
        self.calls.append(1)
        return super().initial(seed) + len(self.calls)


class WrongProgram(PlantedSpace):
    """The program of another space."""

    @property
    def program(self):
        return FeedforwardSpace(self.inputs, self.hidden, self.outputs + 1).program


class Forgetful(PlantedSpace):
    """Attributes of another space."""

    def attributes(self):
        return {**super().attributes(), "activation": "sin"}


class NotAffine(PlantedSpace):
    """Coefficients that the outputs are not affine in."""

    @property
    def condensable(self):
        return np.arange(3)[None]


@pytest.mark.parametrize("kind", [WrongShape, NotFinite, Stateful, WrongProgram, Forgetful, NotAffine])
def test_the_check_of_spaces_finds(kind):
    check_space(PlantedSpace(2, (3,), 1))
    with pytest.raises(AssertionError):
        check_space(kind(2, (3,), 1))


def test_the_check_of_refinements_finds_planted_errors():
    coarse = FeedforwardSpace(2, (3,), 1)
    fine, good = widen(coarse, [Neuron(0, np.ones(2), 0.2)])
    x = coarse.initial(0)
    check_refinement(coarse, fine, good, x)
    heard = good.offset.copy()
    heard[fine.outgoing(0, 3)] = 1e-6
    dense = good.matrix.toarray()
    rank_deficient = dense.copy()
    rank_deficient[:, 0] = 0.0
    errors = {
        "transfer: shape": Transfer(good.matrix[:-1], good.offset[:-1]),
        "the function changes": Transfer(good.matrix, heard),
    }
    for words, transfer in errors.items():
        with pytest.raises(AssertionError, match=words):
            check_refinement(coarse, fine, transfer, x)

    class WrongTranspose(Transfer):
        @property
        def T(self):
            return 1.01 * super().T

    class WrongProjection(Transfer):
        def project(self, x, norm=None):
            return super().project(x, norm) + 1e-3

    with pytest.raises(AssertionError, match="differ by"):
        check_refinement(coarse, fine, WrongTranspose(good.matrix, good.offset), x)
    with pytest.raises(AssertionError, match="project"):
        check_refinement(coarse, fine, WrongProjection(good.matrix, good.offset), x)


def test_the_check_of_refinements_finds_nan():
    coarse = FeedforwardSpace(2, (3,), 1)
    fine, good = widen(coarse, [Neuron(0, np.ones(2), 0.2)])
    broken = dataclasses.replace(good, offset=good.offset * np.nan)
    with pytest.raises(AssertionError):
        check_refinement(coarse, fine, broken, coarse.initial(0))
