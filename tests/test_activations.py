"""Activations: values to two units in the last place, derivatives to rounding, limits, no warnings."""

import ctypes
from functools import cache

import mpmath
import numba
import numpy as np
import pytest
from mpmath import mpf
from numpy.polynomial import Polynomial

from dnnfem.kernels.activations import ORDER, derivatives
from dnnfem.kernels.compiled import elementary
from dnnfem.kernels.compiled.pointwise import machine_code
from dnnfem.kernels.compiled.scalar import SINE_LIMIT
from dnnfem.kernels.compiled.tables import CLOSED, LANES
from dnnfem.kernels.jets import RESULT, SIGMAS, Operation
from dnnfem.kernels.program import ACTIVATIONS, SMOOTH_ACTIVATIONS

HUGE = 1e300


@numba.njit(error_model="numpy")
def _activated(kind, h, z, d, b):
    elementary.activate(kind, h, z, d, b)


@numba.njit(error_model="numpy")
def _opened(kind, h, z, out, top):
    elementary.opened(kind, h, z, out, z.size, top)


@cache
def closed_code(name):
    """Return the machine code that copies ``h sigma^(k)``, k = 0, ..., 6, from the value of ``sigma``."""
    count = ORDER + 1
    copies = tuple(Operation(SIGMAS + RESULT * count + k, k, None, 1.0, True) for k in range(count))
    types = [ctypes.c_void_p, ctypes.c_int64] * 5 + [ctypes.c_int64, ctypes.c_double]
    return ctypes.CFUNCTYPE(None, *types)(machine_code([copies], count, name)[0])


def apply_all(name, z, h=1.0):
    """Return values and derivatives to order 6, with the factor h."""
    n, kind = len(z), ACTIVATIONS.index(name)
    y = np.resize(np.array(z, dtype=float), -(-n // LANES) * LANES)
    out = np.empty((ORDER + 1, y.size))
    if name in CLOSED:
        _activated(kind, 1.0, y, y, y)
        closed_code(name)(y.ctypes.data, 0, *[None, 0] * 3, out.ctypes.data, y.size, y.size, h)
    else:
        _opened(kind, h, y, out[1:].reshape(-1), ORDER)
        out[0] = y
    return out[:, :n]


def apply(name, z):
    """Return values, first and second derivatives, as for networks without derivatives in the inputs."""
    if name in CLOSED:
        return apply_all(name, z)[:3]
    y, d, b = np.array(z, dtype=float), np.empty(len(z)), np.empty(len(z))
    _activated(ACTIVATIONS.index(name), 1.0, y, d, b)
    return y, d, b


EXACT = {
    "identity": lambda z: z,
    "tanh": mpmath.tanh,
    "sigmoid": lambda z: 1 / (1 + mpmath.exp(-z)),
    "softplus": lambda z: max(z, mpf(0)) + mpmath.log1p(mpmath.exp(-abs(z))),
    "sin": mpmath.sin,
    "gelu": lambda z: z * mpmath.erfc(-z / mpmath.sqrt(2)) / 2,
    "relu": lambda z: max(z, mpf(0)),
}


def exact(name, t):
    """Return the value as an mpf with 40 digits at least."""
    if name != "sin" and abs(t) > 1e4:
        # Either limit differs from it by less than any float64; mpmath would take its time for the exponential.
        return {"tanh": mpmath.sign(t), "sigmoid": mpf(t > 0)}.get(name, mpf(max(t, 0.0)) if name != "identity" else t)
    # The sine of 1e300 begins with a product with 1000 digits of pi.
    with mpmath.workdps(40 + max(0, int(np.log10(float(abs(t))))) if t else 40):
        return EXACT[name](mpf(t))


def ulps(value, expected):
    """Return the error in units of the last place of the exact value, of subnormal ones in multiples of 2^-1074."""
    with mpmath.workdps(40):
        return float(abs(mpf(value) - expected) / mpf(np.spacing(abs(float(expected)))))


def signed(random, magnitudes):
    return random.choice([-1.0, 1.0], len(magnitudes)) * magnitudes


def samples():
    """Return arguments of all magnitudes, most of them where something happens."""
    random = np.random.default_rng(6)
    multiples = np.concatenate([np.arange(-20, 21), random.integers(1, 63000, 60), random.integers(1, 2**60, 20)])
    with mpmath.workdps(40):
        multiples = [float(int(n) * mpmath.pi / 2) for n in multiples]
    return np.concatenate(
        [
            random.uniform(-1, 1, 1000),
            random.uniform(-9, 9, 3000),
            random.uniform(-40, 40, 150),
            signed(random, random.uniform(17, 23, 50)),
            random.uniform(-39, -36, 50),
            random.uniform(-750, -690, 50),
            random.uniform(-SINE_LIMIT, SINE_LIMIT, 100),
            signed(random, 10.0 ** random.uniform(-20, 6, 100)),
            signed(random, 10.0 ** random.uniform(-324, 300, 150)),
            multiples,
            [0.0, -0.0, 5e-324, -5e-324, 2.0**-1022, -(2.0**-1022), SINE_LIMIT, HUGE, -HUGE],
        ]
    )


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_to_two_units_in_the_last_place(name):
    z = samples()
    # Rows with a large argument go to the library: one of them must not decide for all.
    for part in (z[abs(z) <= SINE_LIMIT], z[abs(z) > SINE_LIMIT]):
        errors = [ulps(value, exact(name, float(t))) for t, value in zip(part, apply(name, part)[0], strict=True)]
        worst = int(np.argmax(errors))
        assert errors[worst] <= 2.0, part[worst]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_do_not_depend_on_neighbours(name):
    """Vectors and what is left over at their end are computed alike, but for rows that go to the library."""
    z = samples()
    z = z[abs(z) <= SINE_LIMIT]
    whole, single = apply_all(name, z), [apply_all(name, [t])[:, 0] for t in z[:200]]
    assert np.array_equal(whole[:, :200], np.column_stack(single))


def _chain(first, rule, count):
    polynomials = [first]
    for _ in range(count - 1):
        polynomials.append(rule(polynomials[-1]))
    return polynomials


@cache
def _polynomials(name):
    """Return polynomials whose values are the derivatives from order 1, or from order 2 divided by the density."""
    x = Polynomial([0.0, 1.0])
    if name == "tanh":
        return _chain(1 - x**2, lambda p: p.deriv() * (1 - x**2), ORDER)
    if name in ("sigmoid", "softplus"):
        return _chain(x - x**2, lambda p: p.deriv() * (x - x**2), ORDER)
    return _chain(2 - x**2, lambda p: p.deriv() - x * p, ORDER - 1)


def exact_derivatives(name, t):
    """Return derivatives 1 to 6, which follow from the value by polynomials with integers, as mpf."""
    t = mpf(t)
    if name == "sin":
        return [mpmath.sin(t + k * mpmath.pi / 2) for k in range(1, ORDER + 1)]
    argument, factor, low = EXACT["sigmoid" if name == "softplus" else name](t), mpf(1), []
    if name == "softplus":
        low = [argument]
    elif name == "gelu":
        argument, factor = t, mpmath.npdf(t)
        low = [mpmath.ncdf(t) + t * factor]
    return [*low, *(factor * mpmath.polyval([int(c) for c in p.coef[::-1]], argument) for p in _polynomials(name))][
        :ORDER
    ]


@pytest.mark.parametrize("name", SMOOTH_ACTIVATIONS)
def test_derivatives_to_rounding(name):
    """Errors relative to the largest value of each derivative."""
    random = np.random.default_rng(8)
    z = np.concatenate(
        [random.uniform(-3, 3, 150), random.uniform(-39, 39, 100), signed(random, 10.0 ** np.arange(-9, 5))]
    )
    with mpmath.workdps(50):
        expected = np.array([exact_derivatives(name, t) for t in z]).T
        scale = np.abs(expected).max(axis=1).astype(float)
        low, high = apply(name, z)[1:], apply_all(name, z, 0.5)[1:]
        for found in (low, 2.0 * high, derivatives(name, z, ORDER)[1:]):
            errors = [np.abs(row - exact_).max() for row, exact_ in zip(found, expected, strict=False)]
            assert (np.array(errors, dtype=float) <= 4e-15 * scale[: len(errors)]).all(), errors / scale[: len(errors)]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_compiled_activations_against_the_reference(name):
    z = np.concatenate([np.linspace(-40, 40, 4001), [-1e70, 1e70, -1e200, 1e200, 1e8, -1e5, 3e5]])
    for value, expected in zip(apply(name, z), derivatives(name, z, 2), strict=True):
        assert np.allclose(value, expected, rtol=1e-13, atol=1e-14)
    for value, expected in zip(apply_all(name, z), derivatives(name, z, ORDER), strict=True):
        assert np.allclose(value, expected, rtol=1e-13, atol=1e-13 * max(1.0, np.abs(expected[:4001]).max()))


LIMITS = {
    "identity": (-np.inf, np.inf),
    "tanh": (-1.0, 1.0),
    "sin": (np.nan, np.nan),
    "softplus": (0.0, np.inf),
    "gelu": (0.0, np.inf),
    "relu": (0.0, np.inf),
    "sigmoid": (0.0, 1.0),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_limits_and_what_is_not_a_number(name):
    ends = np.array([-np.inf, np.inf])
    slopes = {"identity": (1.0, 1.0), "sin": (np.nan, np.nan)}.get(name, (0.0, float(LIMITS[name][1] == np.inf)))
    for found in (apply(name, ends), apply_all(name, ends), derivatives(name, ends, ORDER)):
        assert np.array_equal(found[0], LIMITS[name], equal_nan=True)
        assert np.array_equal(found[1], slopes, equal_nan=True)
        assert np.isnan(found[2:]).all() if name == "sin" else not np.any(found[2:])
    for found in (apply(name, [np.nan]), apply_all(name, [np.nan]), derivatives(name, np.array([np.nan]), ORDER)):
        assert np.isnan(found[0]).all() and (np.isnan(found[1]).all() or name in ("relu", "identity"))
    assert name in ("sigmoid", "softplus") or not apply(name, [0.0, -0.0])[0].any()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_reference_warns_of_nothing(name):
    z = np.concatenate([samples(), [-np.inf, np.inf] if name != "sin" else []])
    with np.errstate(all="raise", under="ignore"):
        found = derivatives(name, z, ORDER)
    assert np.isfinite(np.array(found)[:, np.isfinite(z)]).all()
