"""Activations and their derivatives in a form that compilers vectorize.

No branches, no calls into the mathematical library, except where the comments say so: range reduction after
Cody and Waite, a Taylor polynomial on the reduced range, powers of two by their bits.  Every selection is
written such that a NaN falls through to the result.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from dnnfem.kernels.compiled.tables import INTERNAL
from dnnfem.kernels.program import ACTIVATIONS

TANH, SINE, SOFTPLUS, GELU, RELU, SIGMOID = (
    ACTIVATIONS.index(name) for name in ("tanh", "sin", "softplus", "gelu", "relu", "sigmoid")
)

OPTIONS: dict[str, Any] = {**INTERNAL, "fastmath": {"contract"}}
"""Fused multiply-adds are welcome; any other liberty would break the range reductions or the NaNs."""

# Adding and subtracting this rounds to the nearest integer, which then stands in the low bits of the sum.
ROUND = 1.5 * 2.0**52
ROUND_BITS = int(np.float64(ROUND).view(np.int64))

LOG2_E = 1.4426950408889634
# The high part has 32 trailing zero bits: its product with the integer is exact.
LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
LN2 = 0.6931471805599453
# pi/2 in three parts of 33 bits, whose products with integers below 2^20 are exact, and the rest.
HALF_PI = (
    1.57079632673412561417e00,
    6.07710050630396597660e-11,
    2.02226624871116645580e-21,
    8.47842766036889956997e-32,
)
HALF_PI_0, HALF_PI_1, HALF_PI_2, HALF_PI_3 = HALF_PI
TWO_OVER_PI = 2.0 / math.pi
SINE_LIMIT = 1e5

INVERSE_FACTORIALS = tuple(1.0 / math.factorial(n) for n in range(19))
(_0, _1, F2, F3, F4, F5, F6, F7, F8, F9, F10, F11, F12, F13, F14, F15, F16, F17, F18) = INVERSE_FACTORIALS

SQRT_HALF = math.sqrt(0.5)
GAUSS = 1.0 / math.sqrt(2.0 * math.pi)


@intrinsic
def _bits(typingctx: Any, x: Any) -> Any:
    """Return the bits of a float64 as int64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(types.int64))

    return types.int64(types.float64), codegen


@intrinsic
def _from_bits(typingctx: Any, n: Any) -> Any:
    """Return the float64 with the bits of an int64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(types.float64))

    return types.float64(types.int64), codegen


@njit(**OPTIONS)
def _reduced(x):  # type: ignore[no-untyped-def]
    """Return ``(n, exp(r) - 1)`` with ``x = n log 2 + r``, ``|r| <= log(2)/2``; |x| below 1e5."""
    t = x * LOG2_E + ROUND
    k = t - ROUND
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    # The remainder of degree 14 is 4e-18 of the leading term.
    p = F13
    p = p * r + F12
    p = p * r + F11
    p = p * r + F10
    p = p * r + F9
    p = p * r + F8
    p = p * r + F7
    p = p * r + F6
    p = p * r + F5
    p = p * r + F4
    p = p * r + F3
    p = p * r + F2
    return _bits(t) - ROUND_BITS, p * (r * r) + r


@njit(**OPTIONS)
def exp_nonpositive(x):  # type: ignore[no-untyped-def]
    """Return ``exp(x)`` for ``x <= 0``, with gradual underflow."""
    x = -746.0 if x < -746.0 else x
    n, p = _reduced(x)
    # The detour over 2^64 keeps the factor a normal number where the result is not.
    return (p + 1.0) * _from_bits((n + (1023 + 64)) << 52) * 2.0**-64


@njit(**OPTIONS)
def tanh(x):  # type: ignore[no-untyped-def]
    """Return ``tanh(x) = e / (e + 2)``, ``e = exp(2 x) - 1``."""
    x = 20.0 if x > 20.0 else x
    x = -20.0 if x < -20.0 else x
    n, p = _reduced(2.0 * x)
    scale = _from_bits((n + 1023) << 52)
    e = scale * p + (scale - 1.0)
    return e / (e + 2.0)


@njit(**OPTIONS)
def sigmoid(x, u):  # type: ignore[no-untyped-def]
    """Return ``1 / (1 + exp(-x))`` from `x` and ``u = exp(-|x|)``."""
    return (u if x < 0.0 else 1.0) / (1.0 + u)


@njit(**OPTIONS)
def log1p_unit(u):  # type: ignore[no-untyped-def]
    """Return ``log(1 + u)`` for u in [0, 1], by ``2 artanh(f / (2 + f))`` with ``|f / (2 + f)| <= 0.172``."""
    upper = u > 0.41421356237309503
    f = 0.5 * (u - 1.0) if upper else u
    s = f / (2.0 + f)
    q = s * s
    p = 2.0 / 23.0
    p = p * q + 2.0 / 21.0
    p = p * q + 2.0 / 19.0
    p = p * q + 2.0 / 17.0
    p = p * q + 2.0 / 15.0
    p = p * q + 2.0 / 13.0
    p = p * q + 2.0 / 11.0
    p = p * q + 2.0 / 9.0
    p = p * q + 2.0 / 7.0
    p = p * q + 2.0 / 5.0
    p = p * q + 2.0 / 3.0
    return (p * q * s + 2.0 * s) + (LN2 if upper else 0.0)


@njit(**OPTIONS)
def sine_cosine(x):  # type: ignore[no-untyped-def]
    """Return ``(sin(x), cos(x))`` for |x| up to `SINE_LIMIT`; beyond it the caller asks the library."""
    t = x * TWO_OVER_PI + ROUND
    k = t - ROUND
    n = _bits(t) - ROUND_BITS
    r = (((x - k * HALF_PI_0) - k * HALF_PI_1) - k * HALF_PI_2) - k * HALF_PI_3
    q = r * r
    s = F17
    s = s * q - F15
    s = s * q + F13
    s = s * q - F11
    s = s * q + F9
    s = s * q - F7
    s = s * q + F5
    s = s * q - F3
    s = s * (q * r) + r
    c = -F18
    c = c * q + F16
    c = c * q - F14
    c = c * q + F12
    c = c * q - F10
    c = c * q + F8
    c = c * q - F6
    c = c * q + F4
    c = c * (q * q) + (1.0 - 0.5 * q)
    odd = (n & 1) == 1
    first, second = (c, s) if odd else (s, c)
    return (-first if (n & 2) != 0 else first), (-second if ((n + 1) & 2) != 0 else second)


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
def _gelu(h, z, d, b):  # type: ignore[no-untyped-def]
    # The library's complementary error function is the one call that does not vectorize.
    for k in range(z.size):
        b[k] = 0.5 * math.erfc(-SQRT_HALF * z[k])
    for k in range(z.size):
        x, cumulative = z[k], b[k]
        density = GAUSS * exp_nonpositive(-0.5 * x * x)
        z[k] = h * (x * cumulative)
        d[k] = h * (cumulative + x * density)
        b[k] = h * (density * (2.0 - x * x))


@njit(**OPTIONS)
def activate(kind, h, z, d, b):  # type: ignore[no-untyped-def]
    """Overwrite arguments by what is kept of them.

    This is ``sigma`` where derivatives follow from the value, see `slopes`.  Elsewhere it is ``h sigma``, and
    ``h sigma'`` and ``h sigma''`` are filled in.

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
            z[k] *= 1.0 if z[k] > 0.0 else 0.0
    elif kind == SIGMOID:
        for k in range(z.size):
            z[k] = sigmoid(z[k], exp_nonpositive(-abs(z[k])))
    elif kind == SINE:
        _sine(h, z, d, b)
    elif kind == SOFTPLUS:
        for k in range(z.size):
            x = z[k]
            u = exp_nonpositive(-abs(x))
            s = sigmoid(x, u)
            # Not max(x, 0): a NaN must come through.
            z[k] = h * ((0.0 if x < 0.0 else x) + log1p_unit(u))
            d[k], b[k] = h * s, h * (s * (1.0 - s))
    elif kind == GELU:
        _gelu(h, z, d, b)


@njit(**OPTIONS)
def slopes(kind, h, y, d, b):  # type: ignore[no-untyped-def]
    """Fill in ``h sigma'`` and ``h sigma''`` from values `y` of an activation in `CLOSED`, each of shape (n,)."""
    if kind == TANH:
        for k in range(y.size):
            s = 1.0 - y[k] * y[k]
            d[k], b[k] = h * s, -2.0 * h * (y[k] * s)
    elif kind == SIGMOID:
        for k in range(y.size):
            s = y[k] * (1.0 - y[k])
            d[k], b[k] = h * s, h * (s * (1.0 - 2.0 * y[k]))
    elif kind == RELU:
        for k in range(y.size):
            d[k], b[k] = h * (1.0 if y[k] > 0.0 else 0.0), 0.0
    else:
        for k in range(y.size):
            d[k], b[k] = h, 0.0


@njit(**OPTIONS)
def opened(kind, h, z, out, step, top):  # type: ignore[no-untyped-def]
    """Overwrite arguments of an activation not in `CLOSED` by ``h sigma``; fill in ``h sigma^(k)``, k = 1, ..., `top`.

    Derivative k begins at ``(k - 1) step`` in `out`; there are two at least, and six at most.
    """
    size = z.size
    if kind == GELU and top > 2:
        for k in range(size):
            x = z[k]
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


@njit(**OPTIONS)
def higher(kind, h, y, out, step, top):  # type: ignore[no-untyped-def]
    """Fill in ``h sigma^(k)``, k = 0, ..., `top` or a few more, from values `y` of an activation in `CLOSED`.

    Derivative k, of which there are seven, begins at ``k step`` in `out`.
    """
    if kind == TANH:
        for k in range(y.size):
            q = y[k] * y[k]
            s = h * (1.0 - q)
            r = y[k] * s
            out[k], out[step + k], out[2 * step + k] = h * y[k], s, -2.0 * r
            out[3 * step + k], out[4 * step + k] = s * (6.0 * q - 2.0), r * (16.0 - 24.0 * q)
        if top > 4:
            for k in range(y.size):
                q = y[k] * y[k]
                s = h * (1.0 - q)
                out[5 * step + k] = s * (q * (120.0 * q - 120.0) + 16.0)
                out[6 * step + k] = y[k] * s * (q * (960.0 - 720.0 * q) - 272.0)
    elif kind == SIGMOID:
        for k in range(y.size):
            s = y[k] * (1.0 - y[k])
            d, t = h * s, h * s * (1.0 - 2.0 * y[k])
            out[k], out[step + k], out[2 * step + k] = h * y[k], d, t
            out[3 * step + k], out[4 * step + k] = d * (1.0 - 6.0 * s), t * (1.0 - 12.0 * s)
        if top > 4:
            for k in range(y.size):
                s = y[k] * (1.0 - y[k])
                out[5 * step + k] = h * s * (1.0 - s * (30.0 - 120.0 * s))
                out[6 * step + k] = h * s * (1.0 - 2.0 * y[k]) * (1.0 - s * (60.0 - 360.0 * s))
    else:
        for k in range(y.size):
            out[k] = h * y[k]
            out[step + k] = h * (1.0 if kind != RELU or y[k] > 0.0 else 0.0)
        for m in range(2, top + 1):
            for k in range(y.size):
                out[m * step + k] = 0.0
