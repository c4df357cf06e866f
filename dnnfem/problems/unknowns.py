"""Unknown coefficients of an equation: constant functions beside those that a law is for, and observations of these.

A space with ``unknowns=k`` has ``k`` outputs more, each of which is one coefficient.  To kernels they are functions as
all others; a law gets them as keywords, and an ansatz leaves them alone but for their units.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from dnnfem.functionals.sampling import OBSERVATIONS
from dnnfem.kernels.components import Component
from dnnfem.kernels.protocol import Ansatz, JetMap
from dnnfem.quadrature import Quadrature, as_finite
from dnnfem.records import Array
from dnnfem.spaces.layout import NetworkSpace

ROUNDING = 1e-9
"""Observations are on the boundary if they are outside of the domain by no more than this part of its extent."""


@dataclass(frozen=True, eq=False)
class Unknowns:
    """Names, starting values and sizes of the unknowns: the value is ``start + scale * coefficient``.

    Parameters
    ----------
    names : tuple of str
    start, scale : array, shape (k,)
        The size is that of the starting value, or one if that is zero.
    """

    names: tuple[str, ...]
    start: Array
    scale: Array

    @classmethod
    def of(cls, given: Mapping[str, float] | None) -> Unknowns:
        """Return the unknowns that a user gave with their starting values.

        Raises
        ------
        ValueError
            If a name is no keyword, or a starting value no finite number.
        """
        given = {} if given is None else given
        if not isinstance(given, Mapping):
            raise ValueError(f"unknowns: got {type(given).__name__}, expected names with starting values")
        for name, value in given.items():
            if not isinstance(name, str) or not name.isidentifier():
                raise ValueError(f"unknowns: got the name {name!r}, expected a keyword of the law")
            number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
            if not number or not math.isfinite(value):
                raise ValueError(f"unknowns: got {value!r} for {name!r}, expected a finite number to start from")
        start = np.array(list(given.values()), dtype=np.float64)
        return cls(tuple(given), start, np.where(start != 0.0, np.abs(start), 1.0))

    def __len__(self) -> int:
        return len(self.names)

    def values(self, x: Array) -> dict[str, float]:
        """Return the values by name, for coefficients of a space whose last ones are those of the unknowns."""
        values = self.start + self.scale * x[len(x) - len(self) :]
        return dict(zip(self.names, values.tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class Parametrized:
    """A law that gets some of the unknowns as keywords, ``law(p, u, nu=...)``, as one of all outputs.

    Parameters
    ----------
    function : callable
    functions : int
        Number of outputs that are no unknowns.
    taken : tuple of (str, int)
        Names of the unknowns that it takes, with their numbers.
    """

    function: Callable[..., Any]
    functions: int
    taken: tuple[tuple[str, int], ...]

    def __call__(self, p: Any, u: Any) -> Any:
        """Return what the law returns."""
        values = u.value if self.taken else ()
        return self.function(p, u.leading(self.functions), **{n: values[self.functions + k] for n, k in self.taken})


def parametrized(
    laws: Mapping[str, Callable[..., Any]], unknowns: Unknowns, functions: int
) -> dict[str, Callable[..., Any]]:
    """Return laws as ones of all outputs, each with those unknowns that its signature names.

    Raises
    ------
    ValueError
        If a law takes something that is no unknown, or its first two parameters have the name of one; if no law takes
        one of the unknowns.
    """
    found, missing = {}, set(unknowns.names)
    for name, law in laws.items():
        names = _taken(name, law, unknowns.names)
        missing -= set(names)
        pairs = tuple((n, k) for k, n in enumerate(unknowns.names) if n in names)
        found[name] = Parametrized(law, functions, pairs) if len(unknowns) else law
    if missing:
        raise ValueError(f"unknowns: got {sorted(missing)}, expected ones that a law takes, as law(p, u, name)")
    return found


def _taken(name: str, law: Callable[..., Any], names: Sequence[str]) -> Sequence[str]:
    """Return the unknowns that a law takes as keywords."""
    try:
        parameters = list(inspect.signature(law).parameters.values())
    except (TypeError, ValueError):
        # Functions that were not written in Python may not say.
        return ()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return names
    own = [p for p in parameters if p.kind is not p.VAR_POSITIONAL]
    first, further = own[:2], own[2:]
    for p in first:
        if p.name in names:
            raise ValueError(f"unknowns: got {p.name!r}, the name of a parameter of {name}(p, u), expected another one")
    for p in further:
        if p.name not in names and p.default is p.empty:
            expected = ", ".join(names) or "none as there are no unknowns"
            raise ValueError(f"{name}: takes {p.name!r} besides p and u, expected names of unknowns: {expected}")
    return [p.name for p in further if p.name in names]


@dataclass(frozen=True, eq=False)
class UnknownsMap:
    """The map of jets of an `UnknownsAnsatz`; see `dnnfem.kernels.protocol.JetMap`.

    Parameters
    ----------
    base : JetMap
        Of the functions.
    functions : int
        Number of outputs that are functions.
    start, scale : array, shape (k, 1)
    components, reads : int
        Numbers of components of the user's and of the reference jet.
    value, read : int, optional
        Which of these are the value; None if none is asked for.
    """

    base: JetMap
    functions: int
    start: Array
    scale: Array
    components: int
    reads: int
    value: int | None
    read: int | None

    def _joined(self, functions: Array, constants: Array, place: int | None, count: int) -> Array:
        """Return a jet with constants behind the functions; their derivatives are zero."""
        xp: Any = array_namespace(functions)
        shape = (count, *constants.shape)
        full = xp.zeros(shape, dtype=functions.dtype, device=device(functions))
        if place is not None:
            full[place] = constants
        joined: Array = xp.concat([functions, full], axis=1)
        return joined

    def jet(self, jet: Array) -> Array:
        """Return the user's jet, shape (components, outputs, m)."""
        constants = self.start + self.scale * jet[self.read or 0, self.functions :]
        return self._joined(self.base.jet(jet[:, : self.functions]), constants, self.value, self.components)

    def tangent(self, jet: Array) -> Array:
        """Apply the linear part of `jet`."""
        constants = self.scale * jet[self.read or 0, self.functions :]
        return self._joined(self.base.tangent(jet[:, : self.functions]), constants, self.value, self.components)

    def cotangent(self, dual: Array) -> Array:
        """Apply the transpose of `tangent`."""
        constants = self.scale * dual[self.value or 0, self.functions :]
        return self._joined(self.base.cotangent(dual[:, : self.functions]), constants, self.read, self.reads)


@dataclass(frozen=True, eq=False)
class UnknownsAnsatz:
    """Another ansatz for the functions, and units for the unknowns; see `dnnfem.kernels.protocol.Ansatz`.

    Parameters
    ----------
    base : Ansatz
        Of the functions alone.
    functions : int
        Their number.
    unknowns : Unknowns
    """

    base: Any
    functions: int
    unknowns: Unknowns

    def attributes(self) -> dict[str, Any]:
        """Return plain data from which the ansatz can be rebuilt."""
        unknowns = self.unknowns
        further = {"names": np.array(unknowns.names), "start": unknowns.start, "scale": unknowns.scale}
        return {**self.base.attributes(), **{f"unknowns_{name}": array for name, array in further.items()}}

    def reference(self, points: Array) -> Array:
        """Map points (m, d) to reference coordinates."""
        found: Array = self.base.reference(points)
        return found

    def reads(self, components: Sequence[Component]) -> tuple[Component, ...]:
        """Return the components of the reference jet that those of the user's jet are made of."""
        found: tuple[Component, ...] = self.base.reads(components)
        return found

    def at(self, points: Array, components: Sequence[Component]) -> UnknownsMap:
        """Return the map of jets at points (m, d)."""
        reads = self.reads(components)
        return UnknownsMap(
            self.base.at(points, components),
            self.functions,
            self.unknowns.start[:, None],
            self.unknowns.scale[:, None],
            len(components),
            len(reads),
            *(found.index(()) if () in components else None for found in (tuple(components), reads)),
        )


def of_functions(ansatz: Any) -> Any:
    """Return the ansatz of the functions alone."""
    return ansatz.base if isinstance(ansatz, UnknownsAnsatz) else ansatz


def with_unknowns(ansatz: Ansatz, functions: int, unknowns: Unknowns) -> Any:
    """Return an ansatz for functions and unknowns; that of the functions if there are none."""
    return UnknownsAnsatz(ansatz, functions, unknowns) if len(unknowns) else ansatz


def check_unknowns(space: NetworkSpace, number: int = 0) -> None:
    """Raise a `ValueError` if a space has another number of unknowns than a problem."""
    if getattr(space, "unknowns", 0) != number:
        raise ValueError(f"space: got {space}, expected one with unknowns={number}")


def observed(p: Any, u: Any) -> Any:
    """Return the residual of observations, ``u`` minus what the quadrature has at the points."""
    return u.value.reshape(len(u), -1) - p.data.T


def samples(given: Any, low: Sequence[float], high: Sequence[float], outputs: int) -> Quadrature:
    """Return observations ``(points, values)`` as a quadrature with data; weights sum to one.

    Raises
    ------
    ValueError
        If they are no pair, shapes do not fit, numbers are not finite, or a point is outside of the box.
    """
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise ValueError(f"observations: got {type(given).__name__}, expected a pair (points, values)")
    points, values = (as_finite(f"observations[{number}]", array, 2) for number, array in enumerate(given))
    if points.shape[1] != len(low):
        raise ValueError(f"observations: got points of shape {np.shape(given[0])}, expected (m, {len(low)})")
    if values.shape != (len(points), outputs):
        expected = f"({len(points)},)" if outputs == 1 else f"({len(points)}, {outputs})"
        raise ValueError(f"observations: got values of shape {np.shape(given[1])}, expected {expected}")
    first, last = np.array(low), np.array(high)
    slack = ROUNDING * (last - first)
    outside = np.flatnonzero(((points < first - slack) | (points > last + slack)).any(axis=1))
    if len(outside):
        place = points[outside[0]].tolist()
        raise ValueError(f"observations: got the point {place}, expected all of them in the domain")
    return Quadrature.samples(points, values)


def weighed(observations: Quadrature, quadrature: Quadrature) -> Quadrature:
    """Return a quadrature with observations as a region; if it has the same ones already these keep their weights."""
    known = quadrature.regions.get(OBSERVATIONS)
    arrays = ("points", "data")
    if known is not None and all(np.array_equal(getattr(known, a), getattr(observations, a)) for a in arrays):
        return quadrature
    return replace(quadrature, regions={**quadrature.regions, OBSERVATIONS: observations})
