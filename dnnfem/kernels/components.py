"""Components of a jet: the derivatives with respect to the inputs that a law reads.

A jet is carried through a network forwards: an affine map acts on every component alike, and an activation by the
formula of Faà di Bruno,

    d_alpha sigma(z) = sum over partitions P of alpha of  sigma^(|P|)(z) * prod_{B in P} d_B z,

which needs the derivatives of z in all parts of alpha.  A sum of second derivatives is a component of its own (the
forward Laplacian of Li et al. 2024, arXiv 2307.08214): ``Delta sigma(z) = sigma'(z) Delta z + sigma''(z) |grad z|^2``
needs the gradient, but no other second derivatives.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MOST = 4
"""Highest order of derivatives with respect to the inputs."""


@dataclass(frozen=True)
class Laplacian:
    """``sum_i weights_i d^2 / dx_axes_i^2`` as one component.

    Parameters
    ----------
    axes : tuple of int
        Inputs that are differentiated: those of space, say, and not time.
    weights : tuple of float
        One for each.

    Raises
    ------
    ValueError
        If there are not as many weights as axes, none at all, or an axis occurs twice; if a weight is not finite.
    """

    axes: tuple[int, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.axes or len(self.axes) != len(self.weights) or len(set(self.axes)) != len(self.axes):
            raise ValueError(f"Laplacian: got axes {self.axes}, weights {self.weights}, expected one weight per axis")
        if not all(map(math.isfinite, self.weights)):
            raise ValueError(f"Laplacian: got weights {self.weights}, expected finite numbers")


Component = tuple[int, ...] | Laplacian
"""Multi-index of a derivative, ``()`` the value, ``(0,)`` and ``(0, 1)`` derivatives; or a sum of second ones."""

Terms = dict[tuple[int, tuple[Component, ...]], float]
"""A polynomial: ``(k, factors)`` stands for ``sigma^(k)`` times the product of the components of z."""


def squares(laplacian: Laplacian) -> list[tuple[float, tuple[int, int]]]:
    """Return the weights of the sum and the second derivatives in it."""
    return [(weight, (i, i)) for i, weight in zip(laplacian.axes, laplacian.weights, strict=True)]


def order(component: Component) -> int:
    """Return the order of a derivative."""
    return 2 if isinstance(component, Laplacian) else len(component)


def order_in(axis: int, component: Component) -> int:
    """Return the order of a derivative in one input."""
    return 2 * (axis in component.axes) if isinstance(component, Laplacian) else component.count(axis)


def axes(component: Component) -> tuple[int, ...]:
    """Return the inputs that are differentiated."""
    return component.axes if isinstance(component, Laplacian) else component


def check(components: Sequence[Component], inputs: int) -> None:
    """Raise a `ValueError` that names the first component that cannot be had from a network with some inputs."""
    for component in components:
        wrong = [axis for axis in axes(component) if not 0 <= axis < inputs]
        if wrong or order(component) > MOST:
            raise ValueError(
                f"components: got {component}, expected derivatives of order at most {MOST} "
                f"with respect to inputs 0 to {inputs - 1}"
            )


def _sorted(component: Component) -> Component:
    return component if isinstance(component, Laplacian) else tuple(sorted(component))


def _partitions(items: tuple[int, ...]) -> Iterator[list[tuple[int, ...]]]:
    """Yield every partition of a sequence into blocks."""
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for smaller in _partitions(rest):
        yield [(first,), *smaller]
        for k, block in enumerate(smaller):
            yield [*smaller[:k], (first, *block), *smaller[k + 1 :]]


def terms(component: Component) -> Terms:
    """Return the polynomial that a component of ``sigma(z)`` is of components of ``z``, by Faà di Bruno."""
    if isinstance(component, Laplacian):
        return {
            (1, (component,)): 1.0,
            **{(2, ((i,), (i,))): weight for weight, (i, _) in squares(component) if weight},
        }
    found: Counter[tuple[int, tuple[Component, ...]]] = Counter()
    for partition in _partitions(component):
        found[len(partition), tuple(sorted(tuple(sorted(block)) for block in partition))] += 1
    return {term: float(count) for term, count in found.items()}


def closure(components: Sequence[Component]) -> tuple[Component, ...]:
    """Return all components that have to be carried along to get some, lower orders first, the value at the front."""
    found: set[Component] = {(), *map(_sorted, components)}
    # The parts of a derivative are closed themselves.
    found |= {factor for component in found for _, factors in terms(component) for factor in factors}
    return tuple(sorted(found, key=lambda c: (order(c), isinstance(c, Laplacian), str(c))))


def places(components: Sequence[Component]) -> list[int]:
    """Return where some components are in their closure."""
    carried = closure(components)
    return [carried.index(_sorted(component)) for component in components]
