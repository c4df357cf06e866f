"""Fields ``f(z, theta)`` of continuous residual networks ``z' = f(z, theta(t))``.

A field is a chain of affine maps with activations, ``f = sigma_n(W_n ... sigma_1(W_1 z + b_1) ... + b_n)``, whose
weights are a sparse affine map of the parameters ``theta`` at one time.  Some of the affine maps may be opaque ones,
such as `dnnfem.ModuleField`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import scipy.sparse as sp

from dnnfem.kernels.program import SMOOTH_ACTIVATIONS
from dnnfem.records import Array, Index
from dnnfem.spaces.opaque import OpaqueMap, StoredModule

FIELD_ACTIVATIONS = (*SMOOTH_ACTIVATIONS, "relu")
ZERO_AT_ZERO = ("identity", "tanh", "sin", "gelu", "relu")


@dataclass(frozen=True)
class AffineMap:
    """``y -> sigma(W y + b)`` with ``W`` of shape (rows, columns); without `bias` there is no ``b``."""

    rows: int
    columns: int
    activation: str
    bias: bool = True

    @property
    def size(self) -> int:
        """Number of weights: ``W`` row by row, then ``b``."""
        return self.rows * (self.columns + self.bias)


@runtime_checkable
class Field(Protocol):
    """What a flow has to know of its field; one of your own needs no more than this, and attributes that are plain."""

    def maps(self, width: int) -> tuple[AffineMap | OpaqueMap, ...]:
        """Return the affine maps, first to last; the first reads `width` components and the last returns as many."""
        ...

    def embedding(self, width: int) -> tuple[sp.csr_array, Array]:
        """Return how all weights of these maps come from theta: matrix (weights, size) and offset (weights,)."""
        ...

    def initial(self, width: int, random: np.random.Generator) -> Array:
        """Draw a theta to begin with, shape (size,)."""
        ...

    def attributes(self) -> dict[str, Any]:
        """Return plain data: the name under which it was registered as ``field``, and keywords to build it again."""
        ...


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
    """``f(z) = sigma(W z + b)``, theta = (W row by row, b): the step of an ordinary residual network."""

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
    """``f(z) = W_2 sigma(W_1 z + b_1) + b_2`` with `inner` neurons, theta = (W_1, b_1, W_2, b_2): not bounded."""

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
        """Return zero weights, if nothing is damped."""
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
    """

    activation: str = "tanh"

    def __post_init__(self) -> None:
        _check_activation(self.activation)

    def maps(self, width: int) -> tuple[AffineMap, ...]:
        """Return the two maps."""
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


@dataclass(frozen=True)
class TimeSteps:
    """``tau f(z)`` with a further parameter ``tau``, the last one of theta: trainable time steps.

    With piecewise constant weights the step of a cell of length ``h`` has the size ``tau h``, and ``int tau dt`` is the
    time that the network takes (Antil, Díaz and Herberg, arXiv 2204.08528; Herberg, Herzog and Köhne, arXiv
    2306.16111).

    Parameters
    ----------
    field : Field
        ``f``.

    Raises
    ------
    ValueError
        If it is no field, or has trainable time steps itself.
    """

    field: Field

    def __post_init__(self) -> None:
        _check_kind(self.field)
        if isinstance(self.field, TimeSteps):
            raise ValueError(f"field: got {self.field}, whose steps are trainable already")

    def maps(self, width: int) -> tuple[AffineMap | OpaqueMap, ...]:
        """Return the maps of the field, and the one that scales."""
        return *self.field.maps(width), AffineMap(width, width, "identity", bias=False)

    def embedding(self, width: int) -> tuple[sp.csr_array, Array]:
        """Return that of the field, with ``tau I`` behind."""
        matrix, offset = self.field.embedding(width)
        diagonal = np.zeros((width * width, 1))
        diagonal[:: width + 1] = 1.0
        blocks = sp.csr_array(sp.block_diag((matrix, sp.csr_array(diagonal))))
        return blocks, np.append(offset, np.zeros(width * width))

    def initial(self, width: int, random: np.random.Generator) -> Array:
        """Draw those of the field; tau is one."""
        return np.append(self.field.initial(width, random), 1.0)

    def vanishing(self, width: int) -> Array:
        """Return that of the field with a tau of one, or any theta with a tau of zero: one factor must not vanish."""
        try:
            return np.append(vanishing(self.field, width), 1.0)
        except ValueError:
            return np.append(self.field.initial(width, np.random.default_rng(0)), 0.0)

    def attributes(self) -> dict[str, Any]:
        """Return those of the field, and that its steps are trainable."""
        return {**self.field.attributes(), "time_steps": True}


def check_field(field: Any, width: int) -> None:
    """Raise a `ValueError` unless a field maps `width` components to as many, and its embedding fits its maps."""
    _check_kind(field)
    maps = field.maps(width)
    reads = [width, *(part.rows for part in maps)]
    for number, part in enumerate(maps):
        if part.columns != reads[number]:
            raise ValueError(
                f"field: map {number} of {field} reads {part.columns} components, expected {reads[number]}"
            )
        if isinstance(part, OpaqueMap):
            part.map.check(part.columns, part.rows)
    if not maps or reads[-1] != width:
        raise ValueError(f"field: {field} returns {reads[-1]} components, expected {width} as it reads")
    matrix, offset = field.embedding(width)
    size = sum(part.size for part in maps)
    if matrix.shape[0] != size or offset.shape != (size,):
        raise ValueError(
            f"field: the embedding of {field} has shapes {matrix.shape} and {offset.shape}, expected {size} weights"
        )


def _check_kind(field: Any) -> None:
    # The class of a field has the methods too, but cannot be asked.
    if isinstance(field, type) or not isinstance(field, Field):
        raise ValueError(f"field: got {field!r}, expected a field, e.g. SingleLayer('tanh')")


def vanishing(field: Field, width: int) -> Array:
    """Return a theta with which a field is zero, but not its derivative with respect to theta, shape (size,).

    A field of one's own may have a method ``vanishing(width)``.

    Raises
    ------
    ValueError
        If there is none.
    """
    own = getattr(field, "vanishing", None)
    if own is None:
        raise ValueError(f"field: {field} has no theta with which it vanishes without being stuck there")
    theta: Array = own(width)
    return theta


def standing(field: Field, width: int) -> Array:
    """Return a theta with which a field is zero, shape (size,): that of `vanishing`, or zero if that will do.

    Raises
    ------
    ValueError
        If there is none.
    """
    try:
        return vanishing(field, width)
    except ValueError:
        matrix, offset = field.embedding(width)
        last = field.maps(width)[-1]
        if offset.any() or not isinstance(last, AffineMap) or last.activation not in ZERO_AT_ZERO:
            raise
        return np.zeros(matrix.shape[1])


def _odd(field: Any, activation: str) -> None:
    if activation not in ("tanh", "sin", "gelu"):
        raise ValueError(f"field: {field} does not vanish for zero weights; expected tanh, sin or gelu")


_FIELDS: dict[str, Any] = {
    "single": SingleLayer,
    "double": DoubleLayer,
    "antisymmetric": Antisymmetric,
    "hamiltonian": Hamiltonian,
    "module": StoredModule,
}


def register_field(name: str, build: Any) -> None:
    """Make a field of one's own known to archives; `build` takes its attributes as keywords, without ``field``.

    Raises
    ------
    ValueError
        If the name is that of another field.
    """
    if _FIELDS.get(name, build) is not build:
        raise ValueError(f"name: got {name!r}, which is that of another field; names so far: {', '.join(_FIELDS)}")
    _FIELDS[name] = build


def field_from_attributes(attributes: dict[str, Any]) -> Field:
    """Rebuild a field.

    Raises
    ------
    ValueError
        If its name was not registered.
    """
    values = dict(attributes)
    name, steps = values.pop("field"), values.pop("time_steps", False)
    if name not in _FIELDS:
        raise ValueError(f"field: got {name!r}, expected one of {', '.join(sorted(_FIELDS))}; see register_field")
    field: Field = _FIELDS[name](**values)
    return TimeSteps(field) if steps else field
