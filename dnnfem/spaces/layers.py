"""The fields that come with the library: networks with one or two layers, free or with a structure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from dnnfem.kernels.program import SMOOTH_ACTIVATIONS
from dnnfem.records import Array, Index
from dnnfem.spaces.fields import AffineMap, register_field
from dnnfem.spaces.opaque import StoredModule

FIELD_ACTIVATIONS = (*SMOOTH_ACTIVATIONS, "relu")


def _check_activation(activation: str) -> None:
    if activation not in FIELD_ACTIVATIONS:
        raise ValueError(f"activation: got {activation!r}, expected one of {', '.join(FIELD_ACTIVATIONS)}")


def _inclusion(size: int) -> tuple[sp.csr_array, Array]:
    """Return the embedding of weights that are the parameters themselves."""
    return sp.csr_array(sp.eye_array(size)), np.zeros(size)


def _matrix(entries: list[tuple[Array, Index, Index]], shape: tuple[int, int]) -> sp.csr_array:
    """Return the sparse matrix with triples (values, rows, columns)."""
    values = np.concatenate([np.broadcast_to(value, row.shape) for value, row, _ in entries])
    rows, columns = (np.concatenate([entry[k] for entry in entries]) for k in (1, 2))
    return sp.csr_array(sp.coo_array((values, (rows, columns)), shape=shape))


@dataclass(frozen=True)
class SingleLayer:
    """``f(z) = sigma(W z + b)``, theta = (W row by row, b): the step of an ordinary residual network.

    Parameters
    ----------
    activation : str
        As for `dnnfem.FeedforwardSpace`.
    """

    activation: str = "tanh"

    def __post_init__(self) -> None:
        _check_activation(self.activation)

    def maps(self, width: int) -> tuple[AffineMap, ...]:
        """Return the one map."""
        return (AffineMap(width, width, self.activation),)

    def embedding(self, width: int) -> tuple[sp.csr_array, Array]:
        """Return the identity."""
        return _inclusion(width * (width + 1))

    def initial(self, width: int, random: np.random.Generator) -> Array:
        """Draw weights of variance 1/width, and biases."""
        return np.append(random.standard_normal(width * width) / np.sqrt(width), 0.5 * random.standard_normal(width))

    def vanishing(self, width: int) -> Array:
        """Return zero weights, for an activation that is zero at zero, and has a slope."""
        _odd(self, self.activation)
        return np.zeros(width * (width + 1))

    def attributes(self) -> dict[str, Any]:
        """Return name and activation."""
        return {"field": "single", "activation": self.activation}


@dataclass(frozen=True)
class DoubleLayer:
    """``f(z) = W_2 sigma(W_1 z + b_1) + b_2``, theta = (W_1, b_1, W_2, b_2): not bounded.

    Parameters
    ----------
    inner : int
        Number of neurons, the rows of ``W_1``.
    activation : str
        As for `dnnfem.FeedforwardSpace`.

    Raises
    ------
    ValueError
        If `inner` is not positive, or the activation unknown.
    """

    inner: int
    activation: str = "tanh"

    def __post_init__(self) -> None:
        _check_activation(self.activation)
        if isinstance(self.inner, bool) or not isinstance(self.inner, int | np.integer) or self.inner < 1:
            raise ValueError(f"inner: got {self.inner!r}, expected a positive integer")

    def maps(self, width: int) -> tuple[AffineMap, ...]:
        """Return the two maps."""
        return AffineMap(self.inner, width, self.activation), AffineMap(width, self.inner, "identity")

    def embedding(self, width: int) -> tuple[sp.csr_array, Array]:
        """Return the identity."""
        return _inclusion(sum(part.size for part in self.maps(width)))

    def initial(self, width: int, random: np.random.Generator) -> Array:
        """Draw weights of variance 1/columns, those of the second map a tenth of that."""
        first = np.append(
            random.standard_normal(self.inner * width) / np.sqrt(width), 0.5 * random.standard_normal(self.inner)
        )
        second = 0.1 * random.standard_normal(width * self.inner) / np.sqrt(self.inner)
        return np.concatenate([first, second, np.zeros(width)])

    def vanishing(self, width: int) -> Array:
        """Return outer weights zero and inner ones 0.8 times the identity (Kreis et al., arXiv 2311.15995)."""
        theta = np.zeros(sum(part.size for part in self.maps(width)))
        theta[: self.inner * width] = 0.8 * np.eye(self.inner, width).ravel()
        return theta

    def attributes(self) -> dict[str, Any]:
        """Return name, width and activation."""
        return {"field": "double", "inner": int(self.inner), "activation": self.activation}


@dataclass(frozen=True)
class Antisymmetric:
    """``f(z) = sigma((A - A^T - damping I) z + b)``, theta = (A above its diagonal, row by row, b).

    The eigenvalues of the matrix are imaginary but for the damping, which is meant to keep states and cotangents from
    exploding (Haber and Ruthotto, Inverse Problems 34 (2018) 014004); undamped ones need RK4, as Euler's and Heun's
    methods amplify them.

    Parameters
    ----------
    damping : float
        Not negative.
    activation : str
        As for `dnnfem.FeedforwardSpace`.

    Raises
    ------
    ValueError
        If the damping is negative or not finite, or the activation unknown.
    """

    damping: float = 0.0
    activation: str = "tanh"

    def __post_init__(self) -> None:
        _check_activation(self.activation)
        if not isinstance(self.damping, int | float | np.floating) or not 0.0 <= self.damping < np.inf:
            raise ValueError(f"damping: got {self.damping!r}, expected a finite number that is not negative")

    def maps(self, width: int) -> tuple[AffineMap, ...]:
        """Return the one map."""
        return (AffineMap(width, width, self.activation),)

    def embedding(self, width: int) -> tuple[sp.csr_array, Array]:
        """Return ``A -> A - A^T`` with the damping as offset."""
        above, below = np.triu_indices(width, 1)
        count = len(above)
        numbers, biases = np.arange(count), np.arange(width)
        one = np.ones(1)
        entries = [
            (one, above * width + below, numbers),
            (-one, below * width + above, numbers),
            (one, width * width + biases, count + biases),
        ]
        offset = np.zeros(width * (width + 1))
        offset[biases * (width + 1)] = -self.damping
        return _matrix(entries, (offset.size, count + width)), offset

    def initial(self, width: int, random: np.random.Generator) -> Array:
        """Draw the entries with variance 1/width, and biases."""
        count = width * (width - 1) // 2
        return np.append(random.standard_normal(count) / np.sqrt(width), 0.5 * random.standard_normal(width))

    def vanishing(self, width: int) -> Array:
        """Return zero weights, if nothing is damped.

        Raises
        ------
        ValueError
            If something is, or the activation does not vanish at zero.
        """
        _odd(self, self.activation)
        if self.damping:
            raise ValueError(f"field: {self} does not vanish for any weights; expected no damping")
        return np.zeros(width * (width + 1) // 2)

    def attributes(self) -> dict[str, Any]:
        """Return name, damping and activation."""
        return {"field": "antisymmetric", "damping": float(self.damping), "activation": self.activation}


@dataclass(frozen=True)
class Hamiltonian:
    """``f(z) = J K^T sigma(K z + b)``, ``J = (0, I; -I, 0)``, theta = (K row by row, b), for an even width.

    For weights that do not depend on time it conserves ``H(z) = sum_i S((K z + b)_i)``, ``S' = sigma`` (Galimberti,
    Furieri, Xu and Ferrari-Trecate, IEEE Trans. Automat. Control 68 (2023) 3155-3162).

    Parameters
    ----------
    activation : str
        As for `dnnfem.FeedforwardSpace`.
    """

    activation: str = "tanh"

    def __post_init__(self) -> None:
        _check_activation(self.activation)

    def maps(self, width: int) -> tuple[AffineMap, ...]:
        """Return the two maps.

        Raises
        ------
        ValueError
            If the width is odd.
        """
        if width % 2:
            raise ValueError(f"width: got {width}, expected an even number for a Hamiltonian field")
        return AffineMap(width, width, self.activation), AffineMap(width, width, "identity", bias=False)

    def embedding(self, width: int) -> tuple[sp.csr_array, Array]:
        """Return how both matrices come from K."""
        first, second = (part.size for part in self.maps(width))
        row, column = np.divmod(np.arange(width * width), width)
        half, numbers = width // 2, np.arange(first)
        # (J K^T)_{a c} is K_{c, a + half} above, -K_{c, a - half} below.
        upper = column >= half
        target = np.where(upper, column - half, column + half) * width + row
        entries = [(np.ones(1), numbers, numbers), (np.where(upper, 1.0, -1.0), first + target, numbers[: width**2])]
        return _matrix(entries, (first + second, first)), np.zeros(first + second)

    def initial(self, width: int, random: np.random.Generator) -> Array:
        """Draw weights of variance 1/width, and biases."""
        return np.append(random.standard_normal(width * width) / np.sqrt(width), 0.5 * random.standard_normal(width))

    def attributes(self) -> dict[str, Any]:
        """Return name and activation."""
        return {"field": "hamiltonian", "activation": self.activation}


def _odd(field: Any, activation: str) -> None:
    if activation not in ("tanh", "sin", "gelu"):
        raise ValueError(f"field: {field} does not vanish for zero weights; expected tanh, sin or gelu")


register_field("single", SingleLayer)
register_field("double", DoubleLayer)
register_field("antisymmetric", Antisymmetric)
register_field("hamiltonian", Hamiltonian)
register_field("module", StoredModule)
