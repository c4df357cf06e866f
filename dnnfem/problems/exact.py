"""Ansatz functions that satisfy conditions exactly: ``u = lift + factor * N``.

On boxes see `dnnfem.problems.lift`, on other domains `dnnfem.problems.vanishing`.

Jets of the product follow Leibniz' rule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import numpy as np
import torch
from array_api_compat import array_namespace, device

from dnnfem.kernels.components import Component, Laplacian, squares
from dnnfem.problems.ansatz import AffineAnsatz, AffineMap
from dnnfem.problems.fields import Tensor, tensor
from dnnfem.problems.lift import function_jet
from dnnfem.records import Array


def leibniz(component: Component) -> list[tuple[float, tuple[int, ...], Component]]:
    """Return the terms ``c d_a f d_b N`` of a component of ``f N``, as ``(c, a, b)``."""
    if isinstance(component, Laplacian):
        terms: list[tuple[float, tuple[int, ...], Component]] = [(1.0, (), component)]
        for weight, (i, _) in squares(component):
            terms += [(2.0 * weight, (i,), (i,)), (weight, (i, i), ())]
        return terms
    found: Counter[tuple[tuple[int, ...], tuple[int, ...]]] = Counter()
    for chosen in product((False, True), repeat=len(component)):
        of_factor = tuple(axis for axis, c in zip(component, chosen, strict=True) if c)
        found[of_factor, tuple(axis for axis, c in zip(component, chosen, strict=True) if not c)] += 1
    return [(float(count), a, b) for (a, b), count in found.items()]


def _zeros(components: int, like: Any) -> Any:
    """Return the jet zero with as many outputs and points as another one, which may be infinite."""
    xp: Any = array_namespace(like)
    return xp.zeros((components, *like.shape[1:]), dtype=like.dtype, device=device(like))


@dataclass(frozen=True, eq=False)
class ExactMap:
    """``jet -> lift + sum of terms``; see `dnnfem.kernels.protocol.JetMap`.

    Parameters
    ----------
    base : AffineMap
        From the reference jet to that of ``N`` in the user's coordinates; its shift plays no role.
    lift : array, shape (components, outputs, m or 1)
    terms : tuple of (component, read, array)
        Numbers of components of ``u`` and ``N``, and what multiplies them, shape (m,).
    components : int
    """

    base: AffineMap
    lift: Array
    terms: tuple[tuple[int, int, Array], ...]
    components: int

    def jet(self, jet: Array) -> Array:
        """Return the user's jet, shape (components, outputs, m)."""
        result: Array = self.tangent(jet) + self.lift
        return result

    def tangent(self, jet: Array) -> Array:
        """Apply the linear part of `jet`."""
        inner = self.base.tangent(jet)
        result: Array = _zeros(self.components, inner)
        for number, read, factor in self.terms:
            result[number] += factor * inner[read]
        return result

    def cotangent(self, dual: Array) -> Array:
        """Apply the transpose of `tangent`."""
        result = _zeros(len(self.base.factors), dual)
        for number, read, factor in self.terms:
            result[read] += factor * dual[number]
        return self.base.cotangent(result)


class Condition(Protocol):
    """Lift and factor; see `dnnfem.problems.lift.Conditions`."""

    @property
    def outputs(self) -> int:
        """Number of unknown functions."""
        ...

    @property
    def constant(self) -> Tensor | None:
        """The lift (outputs, 1) if it is constant."""
        ...

    def lift(self, points: Tensor) -> Tensor:
        """Return the lift at points (m, d), shape (outputs, m)."""
        ...

    def factor(self, points: Tensor) -> Tensor:
        """Return the factor at points (m, d), shape (m,)."""
        ...

    def vanishes(self, derivative: tuple[int, ...]) -> bool:
        """Return whether a derivative of the factor is known to be zero everywhere."""
        ...

    def factors(self, points: Any, derivatives: Sequence[tuple[int, ...]]) -> list[Any]:
        """Return derivatives of the factor at points (m, d), each of shape (m,)."""
        ...


@dataclass(frozen=True, eq=False)
class ExactAnsatz:
    """``u = lift + factor * N``; see `dnnfem.kernels.protocol.Ansatz`.

    Parameters
    ----------
    base : AffineAnsatz
        Coordinates of the network.
    conditions : Condition
        What `u` satisfies whatever the network does.
    """

    base: AffineAnsatz
    conditions: Condition

    def attributes(self) -> dict[str, Any]:
        """Return plain data of the base, and that there are conditions: these may be functions, which are not data."""
        return {**self.base.attributes(), "conditions": "exact"}

    def reference(self, points: Array) -> Array:
        """Map points (m, d) to reference coordinates."""
        return self.base.reference(points)

    def _terms(self, component: Component) -> list[tuple[float, tuple[int, ...], Component]]:
        """Return the terms of a component of ``factor * N`` that are not zero everywhere."""
        return [term for term in leibniz(component) if not self.conditions.vanishes(term[1])]

    def _parts(self, components: Sequence[Component]) -> tuple[Component, ...]:
        """Return the components of ``N``, in the user's coordinates, that those of ``u`` are made of."""
        return tuple(dict.fromkeys(b for component in components for _, _, b in self._terms(component)))

    def reads(self, components: Sequence[Component]) -> tuple[Component, ...]:
        """Return the components of the reference jet that those of the user's jet are made of."""
        return self.base.reads(self._parts(components))

    def at(self, points: Array, components: Sequence[Component]) -> ExactMap:
        """Return the map of jets at points (m, d)."""
        parts = self._parts(components)
        derivatives = list(dict.fromkeys(a for component in components for _, a, _ in self._terms(component)))
        factors = dict(zip(derivatives, self.conditions.factors(points, derivatives), strict=True))
        terms = tuple(
            (number, parts.index(b), c * factors[a])
            for number, component in enumerate(components)
            for c, a, b in self._terms(component)
        )
        return ExactMap(self.base.at(points, parts), self._lift(points, components), terms, len(components))

    def _lift(self, points: Any, components: Sequence[Component]) -> Any:
        """Return the jet of the lift, in the library of the points."""
        host = isinstance(points, np.ndarray)
        where = tensor(points) if host else points
        constant = self.conditions.constant
        if constant is None:
            jet = function_jet(self.conditions.lift, where, components)
        else:
            jet = torch.zeros((len(components), self.conditions.outputs, 1), dtype=torch.float64, device=where.device)
            for number, component in enumerate(components):
                if component == ():
                    jet[number] = constant.to(where.device)
        return jet.numpy() if host else jet
