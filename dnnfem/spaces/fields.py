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

from dnnfem.records import Array
from dnnfem.spaces.opaque import OpaqueMap

ZERO_AT_ZERO = ("identity", "tanh", "sin", "gelu", "relu")


@dataclass(frozen=True)
class AffineMap:
    """``y -> sigma(W y + b)``.

    Parameters
    ----------
    rows, columns : int
        Shape of ``W``.
    activation : str
        As for `dnnfem.FeedforwardSpace`, or ``"identity"``.
    bias : bool
        Whether there is ``b``.
    """

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


_FIELDS: dict[str, Any] = {}


def register_field(name: str, build: Any) -> None:
    """Make a field of one's own known to archives.

    Parameters
    ----------
    name : str
        The attribute ``field`` of the field.
    build : callable
        Returns the field; it takes the other attributes as keywords.

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
