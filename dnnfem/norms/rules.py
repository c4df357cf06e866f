"""Metrics that belong to all coefficients of one space, as norms of networks do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dnnfem.functionals import CondensedLinearization, Linearization, Norm
from dnnfem.spaces import Space


@dataclass(frozen=True, eq=False)
class MetricOn:
    """A rule ``(space, linearization) -> norm`` for functionals of so many coefficients.

    Where the functional is a condensed one, the norm is that at all coefficients, restricted to the inner ones.

    Parameters
    ----------
    dim : int
        Number of coefficients.
    rule : callable
        The same for a space and a linearization of that dimension.
    """

    dim: int
    rule: Callable[[Space, Linearization], Norm]

    def __call__(self, space: Space, linearization: Linearization) -> Norm:
        """Return the norm at the point of a linearization.

        Raises
        ------
        ValueError
            If the space, or that of the condensed functional, has another dimension.
        """
        if isinstance(linearization, CondensedLinearization):
            condensed = linearization.condensed
            return self(condensed.functional.space, linearization.full).restricted(condensed.inner)
        if not self.dim == space.dim == len(linearization.x):
            raise ValueError(
                f"functional: got one of {self.dim} coefficients for a space of {space.dim}, expected as many"
            )
        return self.rule(space, linearization)
