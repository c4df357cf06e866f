"""Functions of one number to a unit in the last place, in a form that compilers vectorize.

No branches and no calls into the mathematical library: range reduction after Cody and Waite, a polynomial on the
reduced range, powers of two by their bits.  Every selection is written such that a NaN falls through to the result, and
only selects: what it selects from is computed before, as a compiler may else branch.

Results are off by one rounding of their own and little else: where a rounding would count for as much as the last one,
it is computed and carried along, ``hi + lo``.  For a sum it is ``lo = b - ((a + b) - a)`` if ``|a| >= |b|`` (Dekker
1971), for a product it takes one fused multiply-add, and for a quotient ``q`` of a by ``d + lo`` the residual
``a - q d - q lo`` (Markstein 1990).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from dnnfem.kernels.compiled.tables import INTERNAL

OPTIONS: dict[str, Any] = {**INTERNAL, "fastmath": {"contract"}}
"""Fused multiply-adds are welcome; any other liberty would break the range reductions or the NaNs."""

INLINED: dict[str, Any] = {**OPTIONS, "forceinline": True}
"""Loops with a call in them are not vectorized."""

# Adding and subtracting this rounds to the nearest integer, which then stands in the low bits of the sum.
ROUND = 1.5 * 2.0**52
ROUND_BITS = int(np.float64(ROUND).view(np.int64))
SIGN = -(2**63)

LOG2_E = 1.4426950408889634
# The high part has 32 trailing zero bits: its product with the integer is exact.
LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
# pi/2 in two parts of 33 bits, whose products with integers below 2^20 are exact, and the rest.
HALF_PI_0, HALF_PI_1, HALF_PI_2 = 1.57079632673412561417e00, 6.07710050630396597660e-11, 2.02226624879595063154e-21
TWO_OVER_PI = 2.0 / math.pi
SINE_LIMIT = 1e5

GAUSS = 1.0 / math.sqrt(2.0 * math.pi)
GAUSS_LIMIT = 39.0
"""Beyond this the normal distribution and its density underflow, however they are multiplied."""

# Polynomials that interpolate in the points of Chebyshev, constant term first; their errors are at most a fifth of a
# unit in the last place of the result.
EXPONENTIAL = (
    0.5, 0.1666666666666667, 0.04166666666666668, 0.008333333333326134, 0.0013888888888879073, 0.00019841269874822307,
    2.4801587336443602e-05, 2.755725539833871e-06, 2.7557263277791584e-07, 2.5105217695684516e-08,
    2.091813816945801e-09,
)  # fmt: skip
"""``(exp(r) - 1 - r) / r^2`` for ``|r| <= log(2)/2``."""

SINE = (
    -0.16666666666666666, 0.008333333333330948, -0.0001984126983675799, 2.755731610217067e-06, -2.5051131752636792e-08,
    1.5918121902592017e-10,
)  # fmt: skip
"""``(sin(r)/r - 1) / q``, ``q = r^2``, for ``|r| <= pi/4``."""

COSINE = (
    0.041666666666666664, -0.0013888888888887398, 2.480158729876524e-05, -2.7557317271452474e-07, 2.087614620348922e-09,
    -1.1382627338652675e-11,
)  # fmt: skip
"""``(cos(r) - 1 + q/2) / q^2`` likewise."""

LOGARITHM = (
    0.6666666666666666, 0.4000000000001491, 0.2857142856702906, 0.22222222724818763, 0.1818178909298275,
    0.15385579010258624, 0.1331400728267029, 0.12002293995427313, 0.08794866738949667, 0.16175806908145096,
)  # fmt: skip
"""``(2 artanh(s)/s - 2) / q``, ``q = s^2``, for q in [0, 1/9]."""

# In s = (t - 5) / (t + 5); the constant term has two parts.
TAIL_LOW = -1.26e-17
TAIL = (
    0.44613196885503653, -0.06286077078120654, 0.007816606048762654, 0.026179127838043516, -0.03597211342312943,
    0.029219743341565376, -0.016968689512722533, 0.006997769534227291, -0.001719982493083047, -1.9063733536410684e-05,
    0.0001944196608479221, -5.380001633996308e-05, -1.1225110990170937e-05, 9.31433704053572e-06,
    6.51427292183916e-08, -1.3569892155232284e-06, 1.114205325780615e-07, 2.0497505292142451e-07,
    -2.2734709081426953e-08, -3.243354728196696e-08, 2.2881304671231505e-09, 4.40766644582981e-09,
    6.269156241501692e-11, -2.7565373182248227e-10,
)  # fmt: skip
"""``(t + 0.8) exp(t^2/2) Phi(-t)`` for t in [0, 40], where ``Phi`` is the normal distribution: almost a constant."""


def _polynomial(*coefficients: float) -> Any:
    """Return the intrinsic that evaluates a polynomial by Horner's rule, constant term first."""

    @intrinsic
    def horner(typingctx: Any, x: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            *others, value = (ir.Constant(ir.DoubleType(), c) for c in coefficients)
            for other in reversed(others):
                value = builder.fadd(builder.fmul(value, args[0], flags=("contract",)), other, flags=("contract",))
            return value

        return types.float64(types.float64), codegen

    return horner


_exponential, _sine, _cosine = _polynomial(*EXPONENTIAL), _polynomial(*SINE), _polynomial(*COSINE)
_logarithm, _tail = _polynomial(*LOGARITHM), _polynomial(*TAIL[1:])


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


@intrinsic
def _fused(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """Return ``a b + c`` with one rounding, also on processors that have to do it step by step."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fma(*args)

    return types.float64(types.float64, types.float64, types.float64), codegen


@njit(**INLINED)
def _reduced(x, low):  # type: ignore[no-untyped-def]
    """Return ``(n, r, p)``, ``exp(x + low) = 2^n (1 + r + p)``, ``|r| <= log(2)/2``, ``|p| <= r^2``; |x| below 1e5."""
    t = x * LOG2_E + ROUND
    k = t - ROUND
    high = x - k * LN2_HIGH
    low = low - k * LN2_LOW
    r = high + low
    return _bits(t) - ROUND_BITS, r, _exponential(r) * (r * r) + ((high - r) + low)


@njit(**INLINED)
def _scaled(x, n):  # type: ignore[no-untyped-def]
    """Return ``2^n x`` for ``-1150 < n <= 0``: the detour over 2^128 keeps the factor a normal number."""
    return x * _from_bits((n + (1023 + 128)) << 52) * 2.0**-128


@njit(**INLINED)
def exp_nonpositive(x):  # type: ignore[no-untyped-def]
    """Return ``exp(x)`` for ``x <= 0``, with gradual underflow."""
    x = -746.0 if x < -746.0 else x
    n, r, p = _reduced(x, 0.0)
    return _scaled((r + p) + 1.0, n)


@njit(**INLINED)
def tanh(x):  # type: ignore[no-untyped-def]
    """Return ``tanh(|x|) = e / (e + 2)``, ``e = exp(2 |x|) - 1``, with the sign of `x`."""
    t = abs(x)
    n, r, p = _reduced(2.0 * (20.0 if t > 20.0 else t), 0.0)
    scale = _from_bits((n + 1023) << 52)
    shift = scale - 1.0
    high = scale * r + shift
    e = high + (scale * p + ((shift - high) + scale * r))
    d = e + 2.0
    y = e / d
    # The rounding of d counts where e is below 2, which is where it is found so; 1/d = (1 - y)/2.
    low = 0.0 if d > 4.0 else e - (d - 2.0)
    y = y - low * (y * (0.5 - 0.5 * y))
    return _from_bits(_bits(y) | (_bits(x) & SIGN))


@njit(**INLINED)
def sigmoid(x):  # type: ignore[no-untyped-def]
    """Return ``1 / (1 + exp(-x))``."""
    u = exp_nonpositive(-abs(x))
    d = 1.0 + u
    y = (u if x < 0.0 else 1.0) / d
    rest = 1.0 - y
    return y - (u - (d - 1.0)) * (y * (rest if x < 0.0 else y))


@njit(**INLINED)
def log1p_unit(u):  # type: ignore[no-untyped-def]
    """Return ``log(1 + u) = 2 artanh(s)``, ``s = u / (2 + u)``, for u in [0, 1]."""
    d = 2.0 + u
    s = u / d
    # Of the rest of s, 1/d = (1 - s)/2.
    low = (_fused(-s, d, u) - s * (u - (d - 2.0))) * (1.0 - s)
    q = s * s
    return 2.0 * s + (_logarithm(q) * (q * s) + low)


@njit(**INLINED)
def softplus(x):  # type: ignore[no-untyped-def]
    """Return ``log(1 + exp(x))`` and its first two derivatives."""
    u = exp_nonpositive(-abs(x))
    inverse = 1.0 / (1.0 + u)
    # Not max(x, 0): a NaN must come through.
    value = (0.0 if x < 0.0 else x) + log1p_unit(u)
    return value, (u if x < 0.0 else 1.0) * inverse, u * (inverse * inverse)


@njit(**INLINED)
def sine_cosine(x):  # type: ignore[no-untyped-def]
    """Return ``(sin(x), cos(x))`` for |x| up to `SINE_LIMIT`; beyond it the caller asks the library."""
    t = x * TWO_OVER_PI + ROUND
    k = t - ROUND
    n = _bits(t) - ROUND_BITS
    first = x - k * HALF_PI_0
    high = first - k * HALF_PI_1
    low = ((first - high) - k * HALF_PI_1) - k * HALF_PI_2
    r = high + low
    low = (high - r) + low
    q = r * r
    half = 1.0 - 0.5 * q
    s = r + (_sine(q) * (q * r) + low * half)
    c = half + (((1.0 - half) - 0.5 * q) + (_cosine(q) * (q * q) - r * low))
    odd = (n & 1) == 1
    first, second = (c, s) if odd else (s, c)
    return (-first if (n & 2) != 0 else first), (-second if ((n + 1) & 2) != 0 else second)


@njit(**INLINED)
def gauss(t):  # type: ignore[no-untyped-def]
    """Return ``(n, r, p)`` with ``exp(-t^2/2) = 2^n (1 + r + p)`` for t in [0, GAUSS_LIMIT], as `_reduced` does."""
    square = t * t
    return _reduced(-0.5 * square, -0.5 * _fused(t, t, -square))


@njit(**INLINED)
def gelu(x):  # type: ignore[no-untyped-def]
    """Return ``x Phi(x) = max(x, 0) - t Phi(-t)``, ``t = |x|``, and its first two derivatives.

    With `TAIL`, a polynomial P, this is ``t Phi(-t) = exp(-t^2/2) q P``, ``q = t / (t + 0.8)``.
    """
    t = abs(x)
    t = GAUSS_LIMIT if t > GAUSS_LIMIT else t
    n, r, p = gauss(t)
    d, other = t + 0.8, t + 5.0
    joint = 1.0 / (d * other)
    inverse = joint * other
    s = 2.0 * (t * (joint * d)) - 1.0
    rest = _tail(s)
    tail = _fused(s, rest, TAIL[0])
    tail_low = _fused(s, rest, TAIL[0] - tail) + TAIL_LOW
    q = t * inverse
    # The rounding of d does not depend on which of its terms is larger.
    part = d - t
    q_low = (_fused(-q, d, t) - q * ((t - (d - part)) + (0.8 - part))) * inverse
    product = q * tail
    low = _fused(q, tail, -product) + (q * tail_low + q_low * tail)
    power = 1.0 + (r + p)
    value = _scaled(product + (product * r + (product * p + low * power)), n)
    density = _scaled(power, n)
    # Of the derivative Phi(x) + x phi(x) too, positive arguments have one minus that of negative ones.
    slope = density * (tail * inverse - GAUSS * t)
    negative, mirrored = x < 0.0, 1.0 - slope
    return (
        (0.0 if negative else x) - value,
        slope if negative else mirrored,
        GAUSS * density * (2.0 - t * t),
    )
