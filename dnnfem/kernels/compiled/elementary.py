"""Activations and their derivatives, on arrays.

Values are right to two units in the last place for every argument, limits are exact, and a NaN stays one.  Derivatives
are right to ``4e-15 max |sigma^(k)|``: in sums over neurons and samples this is a relative change of a few roundings in
the largest terms.  Where they follow from a rounded value they have fewer digits in their tails: ``1 - y^2`` has seven
at ``tanh(10)`` and none at ``tanh(20)``.
"""

from __future__ import annotations

import math

from numba import njit

from dnnfem.kernels.compiled.scalar import (
    GAUSS,
    GAUSS_LIMIT,
    OPTIONS,
    SINE_LIMIT,
    exp_nonpositive,
    gelu,
    sigmoid,
    sine_cosine,
    softplus,
    tanh,
)
from dnnfem.kernels.program import ACTIVATIONS

TANH, SINE, SOFTPLUS, GELU, RELU, SIGMOID = (
    ACTIVATIONS.index(name) for name in ("tanh", "sin", "softplus", "gelu", "relu", "sigmoid")
)


@njit(**OPTIONS)
def _sine(h, z, d, b):  # type: ignore[no-untyped-def]
    large = 0
    for k in range(z.size):
        large += 1 if abs(z[k]) > SINE_LIMIT else 0
    if large > 0:
        for k in range(z.size):
            s, c = math.sin(z[k]), math.cos(z[k])
            z[k], d[k], b[k] = h * s, h * c, -h * s
    else:
        for k in range(z.size):
            s, c = sine_cosine(z[k])
            z[k], d[k], b[k] = h * s, h * c, -h * s


@njit(**OPTIONS)
def activate(kind, h, z, d, b):  # type: ignore[no-untyped-def]
    """Overwrite arguments by what is kept of them.

    This is ``sigma`` where derivatives follow from the value, as `dnnfem.kernels.compiled.pointwise` has them.
    Elsewhere it is ``h sigma``, and ``h sigma'`` and ``h sigma''`` are filled in.

    Parameters
    ----------
    kind : int
        Number in `dnnfem.kernels.program.ACTIVATIONS`.
    h : float
    z, d, b : array, shape (n,)
    """
    if kind == TANH:
        for k in range(z.size):
            z[k] = tanh(z[k])
    elif kind == RELU:
        for k in range(z.size):
            z[k] = 0.0 if z[k] < 0.0 else z[k]
    elif kind == SIGMOID:
        for k in range(z.size):
            z[k] = sigmoid(z[k])
    elif kind == SINE:
        _sine(h, z, d, b)
    elif kind == SOFTPLUS:
        for k in range(z.size):
            y, s, c = softplus(z[k])
            z[k], d[k], b[k] = h * y, h * s, h * c
    elif kind == GELU:
        for k in range(z.size):
            y, s, c = gelu(z[k])
            z[k], d[k], b[k] = h * y, h * s, h * c


@njit(**OPTIONS)
def opened(kind, h, z, out, step, top):  # type: ignore[no-untyped-def]
    """Overwrite arguments of an activation not in `CLOSED` by ``h sigma``; fill in ``h sigma^(k)``, k = 1, ..., `top`.

    Derivative k begins at ``(k - 1) step`` in `out`; there are two at least, and six at most.
    """
    size = z.size
    if kind == GELU and top > 2:
        for k in range(size):
            x = z[k]
            x = GAUSS_LIMIT if x > GAUSS_LIMIT else x
            x = -GAUSS_LIMIT if x < -GAUSS_LIMIT else x
            q, density = x * x, h * (GAUSS * exp_nonpositive(-0.5 * x * x))
            out[2 * step + k] = density * (x * (q - 4.0))
            if top > 3:
                out[3 * step + k] = density * (q * (7.0 - q) - 4.0)
            if top > 4:
                out[4 * step + k] = density * (x * (q * (q - 11.0) + 18.0))
            if top > 5:
                out[5 * step + k] = density * (q * (q * (16.0 - q) - 51.0) + 18.0)
    activate(kind, h, z, out[:size], out[step : step + size])
    if kind == SINE:
        for m in range(3, top + 1):
            for k in range(size):
                out[(m - 1) * step + k] = -out[(m - 3) * step + k]
    elif kind == SOFTPLUS and top > 2:
        for k in range(size):
            s = out[k] / h if h != 0.0 else 0.0
            d, t = s * (1.0 - s), 1.0 - 2.0 * s
            out[2 * step + k] = h * (d * t)
            if top > 3:
                out[3 * step + k] = h * (d * (1.0 - 6.0 * d))
            if top > 4:
                out[4 * step + k] = h * (d * t * (1.0 - 12.0 * d))
            if top > 5:
                out[5 * step + k] = h * (d * (1.0 - d * (30.0 - 120.0 * d)))
