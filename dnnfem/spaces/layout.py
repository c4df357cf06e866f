"""What all spaces share: the protocol, checks of coefficient vectors, and stateless randomness."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dnnfem.given import real_array
from dnnfem.kernels.program import Program
from dnnfem.records import Array, Index


class Space(Protocol):
    """Gives meaning to a flat float64 vector of coefficients."""

    @property
    def dim(self) -> int:
        """Number of coefficients."""
        ...

    @property
    def condensable(self) -> Index | None:
        """Coefficients that the outputs are affine in, shape (outputs, features): row ``k`` acts on output ``k``."""
        ...


class NetworkSpace(Space, Protocol):
    """A space whose members are functions that kernels can evaluate."""

    @property
    def inputs(self) -> int:
        """Number of inputs."""
        ...

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        ...

    @property
    def program(self) -> Program:
        """Straight-line code of the network."""
        ...

    def initial(self, seed: int = 0) -> Array:
        """Return a starting point, shape (dim,), in reference coordinates."""
        ...

    def attributes(self) -> dict[str, Any]:
        """Return plain data (strings, integers, tuples) from which the space can be rebuilt."""
        ...


@dataclass(frozen=True)
class Coordinates:
    """A space that is nothing but R^dim: that of a user's own functional, or of a condensed one.

    Parameters
    ----------
    dim : int
        Number of coefficients.
    condensable : None
        There are no coefficients that can be eliminated.
    """

    dim: int
    condensable: None = None


class Purpose(enum.IntEnum):
    """What a random draw is for; part of its key."""

    INITIAL = 0
    CANDIDATES = 1
    PROBE = 2
    FOLDS = 3
    MOMENTS = 4
    BATCHES = 5
    GROUPS = 6


def generator(seed: int, dim: int, purpose: Purpose, *number: int) -> np.random.Generator:
    """Return the generator that belongs to (seed, dim, purpose): nothing to store, nothing to get out of step.

    Parameters
    ----------
    seed : int
        The user's.
    dim : int
        ``space.dim``.
    purpose : Purpose
        What is drawn.
    *number : int
        Of the draw, where draws are repeated, one batch of samples after another.

    Returns
    -------
    numpy.random.Generator
        The same for the same arguments.

    Raises
    ------
    ValueError
        If `seed` is not a non-negative integer.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed: got {seed!r}, expected a non-negative integer")
    return np.random.default_rng(np.random.SeedSequence(int(seed), spawn_key=(dim, int(purpose), *number)))


def check_coefficients(space: Space, x: Any, name: str = "x", finite: bool = False) -> Array:
    """Return a copy of `x` as a float64 vector of the space: what is kept must not follow later changes of `x`.

    Raises
    ------
    ValueError
        If the shape or the dtype is wrong, the message names both shapes; with `finite` also on NaN or infinity.
    """
    vector = real_array(name, x)
    if vector.dtype.kind == "b":
        raise ValueError(f"{name}: got dtype {vector.dtype}, expected real numbers")
    if vector.shape != (space.dim,):
        raise ValueError(f"{name}: got shape {vector.shape}, expected {(space.dim,)} for {space}")
    if finite and not np.isfinite(vector).all():
        raise ValueError(f"{name}: got NaN or infinity, expected finite numbers")
    return np.array(vector, dtype=np.float64)


_KINDS: dict[str, Callable[..., NetworkSpace]] = {}


def register(kind: str, build: Callable[..., NetworkSpace]) -> None:
    """Make a kind of space known to archives; `build` takes the attributes as keywords."""
    _KINDS[kind] = build


def space_from_attributes(attributes: Mapping[str, Any]) -> NetworkSpace:
    """Rebuild a space from `NetworkSpace.attributes`.

    Parameters
    ----------
    attributes : mapping of str to number, str or tuple

    Returns
    -------
    NetworkSpace
        Equal to the one that they come from.

    Raises
    ------
    ValueError
        If the kind is unknown.
    """
    values = dict(attributes)
    kind = values.pop("kind", None)
    if kind not in _KINDS:
        raise ValueError(f"kind: got {kind!r}, expected one of {', '.join(sorted(_KINDS))}")
    return _KINDS[kind](**values)
