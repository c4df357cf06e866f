"""Activations and their derivatives to order 6, the same formulas for every array library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.special

from dnnfem.records import Array

ORDER = 6

Formulas = list[Callable[[], Any]]
"""What gives the value and the derivatives: only those that are wanted are computed."""


def _identity(z: Any, xp: Any, special: Any) -> Formulas:
    return [lambda: z, lambda: xp.ones_like(z), *[lambda: xp.zeros_like(z)] * (ORDER - 1)]


def _tanh(z: Any, xp: Any, special: Any) -> Formulas:
    y = xp.tanh(z)
    q = y * y
    d = 1.0 - q
    return [
        lambda: y,
        lambda: d,
        lambda: -2.0 * y * d,
        lambda: d * (6.0 * q - 2.0),
        lambda: y * d * (16.0 - 24.0 * q),
        lambda: d * (16.0 - 120.0 * q * d),
        lambda: -y * d * (272.0 - q * (960.0 - 720.0 * q)),
    ]


def _quiet(function: Callable[[Any], Any], z: Any) -> Any:
    """Apply the sine or the cosine; that of infinity is no number, which is all there is to say."""
    with np.errstate(invalid="ignore"):
        return function(z)


def _sin(z: Any, xp: Any, special: Any) -> Formulas:
    two: Formulas = [lambda: _quiet(xp.sin, z), lambda: _quiet(xp.cos, z)]
    four: Formulas = [*two, lambda: -two[0](), lambda: -two[1]()]
    return [*four, *four[:3]]


def _logistic_derivatives(y: Any) -> Formulas:
    """Derivatives 1 to 6 of the logistic function, from its value."""
    d = y * (1.0 - y)
    t = 1.0 - 2.0 * y
    return [
        lambda: d,
        lambda: d * t,
        lambda: d * (1.0 - 6.0 * d),
        lambda: d * t * (1.0 - 12.0 * d),
        lambda: d * (1.0 - d * (30.0 - 120.0 * d)),
        lambda: d * t * (1.0 - d * (60.0 - 360.0 * d)),
    ]


def _sigmoid(z: Any, xp: Any, special: Any) -> Formulas:
    y = special.expit(z)
    return [lambda: y, *_logistic_derivatives(y)]


def _softplus(z: Any, xp: Any, special: Any) -> Formulas:
    y = special.expit(z)
    positive = xp.where(z > 0.0, z, xp.zeros_like(z))
    return [lambda: positive + xp.log1p(xp.exp(-xp.abs(z))), lambda: y, *_logistic_derivatives(y)[:5]]


def _gelu(z: Any, xp: Any, special: Any) -> Formulas:
    # Beyond 40 the density underflows, and its products with powers of infinity would be no numbers.
    inner = xp.clip(z, -40.0, 40.0)
    square = inner * inner
    density = xp.exp(-0.5 * square) / float(np.sqrt(2.0 * np.pi))
    cumulative = special.ndtr(z)
    return [
        lambda: xp.clip(z, -40.0, None) * cumulative,
        lambda: cumulative + inner * density,
        lambda: density * (2.0 - square),
        lambda: density * inner * (square - 4.0),
        lambda: density * (-4.0 + square * (7.0 - square)),
        lambda: density * inner * (18.0 - square * (11.0 - square)),
        lambda: density * (18.0 - square * (51.0 - square * (16.0 - square))),
    ]


def _relu(z: Any, xp: Any, special: Any) -> Formulas:
    # The derivative at the kink is 0, in every backend.
    return [
        lambda: xp.where(z < 0.0, xp.zeros_like(z), z),
        lambda: xp.where(z > 0.0, xp.ones_like(z), xp.zeros_like(z)),
        *[lambda: xp.zeros_like(z)] * (ORDER - 1),
    ]


_TABLE: dict[str, Callable[[Any, Any, Any], Formulas]] = {
    "identity": _identity,
    "tanh": _tanh,
    "sin": _sin,
    "softplus": _softplus,
    "gelu": _gelu,
    "relu": _relu,
    "sigmoid": _sigmoid,
}


def formulas(name: str, z: Any, xp: Any, special: Any) -> Formulas:
    """Return what gives ``sigma(z)`` and its derivatives to order 6, each of the shape of `z`.

    `xp` and `special` are the modules of the library that `z` belongs to.
    """
    return _TABLE[name](z, xp, special)


def derivatives(name: str, z: Array, order: int) -> list[Array]:
    """Return ``[sigma(z), sigma'(z), ..., sigma^(order)(z)]`` in NumPy, each of the shape of `z`; `order` at most 6."""
    return [formula() for formula in formulas(name, z, np, scipy.special)[: order + 1]]
