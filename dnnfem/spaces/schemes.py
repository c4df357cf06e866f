"""Explicit Runge-Kutta schemes, written so that each stage is one line of a program.

A step of size ``h`` from ``y_0 = z_k`` computes ``y_i = sum_j a_ij y_j + h s_i f(y_r, theta(t_k + c_i h))``, and the
last ``y_i`` is ``z_{k+1}``: increments ``f`` that are read again are differences of registers, so that none is stored.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One evaluation of the field: where it is read, when, and what is made of it.

    Attributes
    ----------
    abscissa : float
        ``c_i``, as a part of the step.
    reads : int
        ``r``.
    carry : tuple of (int, float)
        Pairs ``(j, a_ij)``.
    scale : float
        ``s_i``, as a part of the step.
    """

    abscissa: float
    reads: int
    carry: tuple[tuple[int, float], ...]
    scale: float


@dataclass(frozen=True)
class Scheme:
    """A scheme of some order for smooth weights; `rows` for piecewise linear ones.

    With piecewise constant weights the abscissae play no role: all stages use those of the cell that the step lies in.
    """

    order: int
    rows: tuple[Row, ...]


SCHEMES = {
    # At the midpoint: with the left value the last node would never enter.  (On equal meshes alternating signs at the
    # nodes cancel there; a penalty, or two steps per cell, sees them.)
    "euler": Scheme(1, (Row(0.5, 0, ((0, 1.0),), 1.0),)),
    "heun": Scheme(2, (Row(0.0, 0, ((0, 1.0),), 1.0), Row(1.0, 1, ((0, 0.5), (1, 0.5)), 0.5))),
    "rk4": Scheme(
        4,
        (
            Row(0.0, 0, ((0, 1.0),), 0.5),
            Row(0.5, 1, ((0, 1.0),), 0.5),
            Row(0.5, 2, ((0, 1.0),), 1.0),
            # z + h/6 (k_1 + 2 k_2 + 2 k_3 + k_4) with h k_1 = 2 (y_1 - z), h k_2 = 2 (y_2 - z), h k_3 = y_3 - z.
            Row(1.0, 3, ((0, -1.0 / 3.0), (1, 1.0 / 3.0), (2, 2.0 / 3.0), (3, 1.0 / 3.0)), 1.0 / 6.0),
        ),
    ),
}
"""Forward Euler, Heun's method and the classical method of Runge and Kutta."""
