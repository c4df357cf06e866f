"""Domains of differential equations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Box:
    """A box ``low_i < x_i < high_i``, in any dimension.

    Parameters
    ----------
    low, high : sequence of float
        Opposite corners.

    Raises
    ------
    ValueError
        If they have different lengths, are not finite, or the box is empty.
    """

    low: Sequence[float]
    high: Sequence[float]

    def __post_init__(self) -> None:
        low, high = (_corner(name, getattr(self, name)) for name in ("low", "high"))
        if len(low) != len(high):
            raise ValueError(f"high: got {len(high)} coordinates, expected {len(low)} as low has")
        for axis, (a, b) in enumerate(zip(low, high, strict=True)):
            if not a < b:
                raise ValueError(f"high: got {b} in coordinate {axis}, expected more than {a}, as the box is empty")
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return len(self.low)

    def __str__(self) -> str:
        return " x ".join(f"[{a:g}, {b:g}]" for a, b in zip(self.low, self.high, strict=True))


def _corner(name: str, value: Any) -> tuple[float, ...]:
    try:
        array = np.atleast_1d(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError):
        raise ValueError(f"{name}: got {value!r}, expected one number per coordinate") from None
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"{name}: got {value!r}, expected one finite number per coordinate")
    return tuple(array.tolist())
