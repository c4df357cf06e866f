"""Activations and their derivatives to order 6, in NumPy: the reference for every backend."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import expit, ndtr

from dnnfem.records import Array

ORDER = 6


def _identity(z: Array) -> list[Array]:
    return [z, np.ones_like(z), *(np.zeros_like(z) for _ in range(2, ORDER + 1))]


def _tanh(z: Array) -> list[Array]:
    y = np.tanh(z)
    d = 1.0 - y * y
    q = y * y
    higher = [d * (6.0 * q - 2.0), y * d * (16.0 - 24.0 * q)]
    return [y, d, -2.0 * y * d, *higher, d * (16.0 - 120.0 * q * d), -y * d * (272.0 - q * (960.0 - 720.0 * q))]


def _sin(z: Array) -> list[Array]:
    # The sine of infinity is no number, which is all there is to say.
    with np.errstate(invalid="ignore"):
        s, c = np.sin(z), np.cos(z)
    return [s, c, -s, -c, s, c, -s]


def _logistic_derivatives(y: Array) -> list[Array]:
    """Derivatives 1 to 6 of the logistic function, from its value."""
    d = y * (1.0 - y)
    t = 1.0 - 2.0 * y
    higher = [d * (1.0 - d * (30.0 - 120.0 * d)), d * t * (1.0 - d * (60.0 - 360.0 * d))]
    return [d, d * t, d * (1.0 - 6.0 * d), d * t * (1.0 - 12.0 * d), *higher]


def _sigmoid(z: Array) -> list[Array]:
    y = expit(z)
    return [y, *_logistic_derivatives(y)]


def _softplus(z: Array) -> list[Array]:
    y = expit(z)
    return [np.maximum(z, 0.0) + np.log1p(np.exp(-np.abs(z))), y, *_logistic_derivatives(y)[:5]]


def _gelu(z: Array) -> list[Array]:
    # Beyond 40 the density underflows, and its products with powers of infinity would be no numbers.
    inner = np.clip(z, -40.0, 40.0)
    square = inner * inner
    density = np.exp(-0.5 * square) / np.sqrt(2.0 * np.pi)
    cumulative = ndtr(z)
    return [
        np.maximum(z, -40.0) * cumulative,
        cumulative + inner * density,
        density * (2.0 - square),
        density * inner * (square - 4.0),
        density * (-4.0 + square * (7.0 - square)),
        density * inner * (18.0 - square * (11.0 - square)),
        density * (18.0 - square * (51.0 - square * (16.0 - square))),
    ]


def _relu(z: Array) -> list[Array]:
    # The derivative at the kink is 0, in every backend.
    step = (z > 0.0).astype(np.float64)
    return [np.where(z < 0.0, 0.0, z), step, *(np.zeros_like(z) for _ in range(2, ORDER + 1))]


_TABLE: dict[str, Callable[[Array], list[Array]]] = {
    "identity": _identity,
    "tanh": _tanh,
    "sin": _sin,
    "softplus": _softplus,
    "gelu": _gelu,
    "relu": _relu,
    "sigmoid": _sigmoid,
}


def derivatives(name: str, z: Array, order: int) -> list[Array]:
    """Return ``[sigma(z), sigma'(z), ..., sigma^(order)(z)]``, each of the shape of `z`; `order` at most 6."""
    return _TABLE[name](z)[: order + 1]
