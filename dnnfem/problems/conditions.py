"""Conditions on the sides of a box, or parts of another boundary, as users write them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dnnfem.problems.domains import Box, Domain
from dnnfem.problems.fields import Corners, Jet, Points
from dnnfem.problems.pointwise import rows

Values = Callable[[Points], Any] | float | int | Sequence[float]
"""What holds on a side: ``g(p)`` in torch, or constants."""

Side = tuple[int, int]
"""Axis and end, 0 or 1; time is the last axis."""

Place = Side | str
"""A side of a box, or a part of another boundary by its name."""


def places(domain: Domain, periodic: Sequence[int]) -> list[Place]:
    """Return the sides of a box in the axes in which it is not periodic, or the names of the parts of a boundary."""
    if not isinstance(domain, Box):
        return list(domain.parts)
    return [(axis, end) for axis in range(domain.dim) if axis not in periodic for end in (0, 1)]


def sided(name: str, given: Any, sides: Sequence[Place]) -> dict[Place, Any]:
    """Return what is given for every side, or for some of them, as a mapping.

    Raises
    ------
    ValueError
        If it is given for a side that there is not.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        return dict.fromkeys(sides, given)
    for side in given:
        if side not in sides:
            expected = ", ".join(map(str, sides)) or "none, as the problem is periodic in all coordinates"
            raise ValueError(f"{name}: got a condition on the side {side!r}, expected some of {expected}")
    return {side: given[side] for side in sides if side in given}


def joined(kind: str, given: Mapping[Place, Any], box: Corners) -> dict[str, tuple[list[Place], Any]]:
    """Return what is given by name, with the sides where it is the same: one term of the functional then does.

    Names are the kind of condition alone, or with all sides where different things hold on different ones.
    """
    groups: list[tuple[list[Place], Any]] = []
    for side, condition in given.items():
        # Numbers may be equal, functions are the same or not.
        known = (members for members, other in groups if other is condition or _equal(other, condition))
        members = next(known, None)
        if members is None:
            groups.append(([side], condition))
        else:
            members.append(side)
    if len(groups) == 1:
        return {kind: groups[0]}
    return {f"{kind} on {', '.join(side_name(side, box) for side in group[0])}": group for group in groups}


def _equal(a: Any, b: Any) -> bool:
    return isinstance(a, int | float) and isinstance(b, int | float) and a == b


def side_name(side: Place, box: Corners) -> str:
    """Return what a side of a box is called, ``x0 = 1``, or the name of a part of another boundary."""
    if isinstance(side, str):
        return side
    place = box[side[1]][side[0]]
    # Six digits if these are all: opposite sides must have different names.
    short = f"{place:g}"
    return f"x{side[0]} = {short if float(short) == place else repr(place)}"


def values(name: str, given: Values, points: torch.Tensor, space: int, outputs: int) -> torch.Tensor:
    """Return what holds at points (m, d), shape (outputs, m).

    Raises
    ------
    ValueError
        If it has another shape or is not finite.
    """
    found = given(Points(points, space)) if callable(given) else given
    found = list(found) if isinstance(found, Sequence) else found
    result = rows(name, found, points, outputs)
    wrong = ~torch.isfinite(result).all(dim=0)
    # What is exported has no branches.
    if not torch.compiler.is_exporting() and wrong.any():
        point = points[int(torch.nonzero(wrong)[0])].tolist()
        raise ValueError(f"{name}: got NaN or infinity at the point {point}, expected finite numbers")
    return result


@dataclass(frozen=True, eq=False)
class Misfit:
    """The residual ``u - g`` of a condition that does not hold exactly, and ``u_t - h`` at the beginning.

    Parameters
    ----------
    name : str
        Of the condition, for messages.
    given : Values
        ``g``.
    velocity : Values, optional
        ``h``.
    """

    name: str
    given: Values
    velocity: Values | None = None

    def __call__(self, p: Points, u: Jet) -> torch.Tensor:
        """Return the residuals at points of the side."""
        where, outputs = p.coordinates, len(u)
        found = [u.value.reshape(outputs, -1) - values(self.name, self.given, where, p.space, outputs)]
        if self.velocity is not None:
            found.append(u.dt.reshape(outputs, -1) - values(self.name, self.velocity, where, p.space, outputs))
        return torch.cat(found)
