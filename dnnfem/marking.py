"""Marking: which cells to refine, from the indicators of an estimate.

Every rule is a pure function ``(indicators, ...) -> sorted int array`` of positions in `indicators`, an array of
shape (n,) of finite numbers >= 0.  Indicators are unsquared: their squares add up to the square of the total.  Of
equal indicators those with the smaller index come first; a cell whose indicator is zero is never marked.  Arguments
out of range or of a wrong shape raise a `ValueError` that names the argument, what it got and what is right.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from dnnfem.given import real_array, real_number
from dnnfem.records import Array, Index

__all__ = ["dorfler", "equidistribution", "fixed_fraction", "gain_per_cost", "maximum"]


def dorfler(indicators: npt.ArrayLike, theta: float = 0.5) -> Index:
    r"""Mark the fewest cells that carry the part `theta` of the squared estimate.

    The marked set :math:`M` has minimal cardinality among all with
    :math:`\sum_{i \in M} \eta_i^2 \ge \theta \sum_i \eta_i^2` [1]_.  It is found in linear time by
    halving the candidates at their median [2]_; sorting is not needed.

    Parameters
    ----------
    indicators : array, shape (n,)
        Indicators :math:`\eta_i`, finite and >= 0.
    theta : float
        In (0, 1].

    Returns
    -------
    int array, shape (k,)
        Marked cells, ascending.

    References
    ----------
    .. [1] W. Dörfler, A convergent adaptive algorithm for Poisson's equation, SIAM J. Numer. Anal. 33 (1996).
    .. [2] C.-M. Pfeiler, D. Praetorius, Dörfler marking with minimal cardinality is a linear complexity
       problem, Math. Comp. 89 (2020).

    Examples
    --------
    >>> fem.dorfler([0.1, 0.8, 0.3, 0.5], theta=0.8)
    array([1, 3])
    """
    eta = _per_cell("indicators", indicators)
    _fraction("theta", theta)
    if theta == 1.0:
        return np.flatnonzero(eta)
    squares = _scaled(eta) ** 2
    goal = theta * float(squares.sum())
    marked = np.zeros(eta.size, dtype=bool)
    active = np.flatnonzero(squares)
    while active.size:
        values = squares[active]
        pivot = float(np.partition(values, values.size // 2)[values.size // 2])
        above, ties = active[values > pivot], active[values == pivot]
        gain = float(squares[above].sum())
        if gain >= goal:
            active = above
            continue
        marked[above] = True
        if gain + pivot * ties.size >= goal:
            count = math.ceil((goal - gain) / pivot)
            marked[ties[: count + (count * pivot < goal - gain)]] = True
            break
        marked[ties] = True
        goal -= gain + pivot * ties.size
        active = active[values < pivot]
    return np.flatnonzero(marked)


def maximum(indicators: npt.ArrayLike, theta: float = 0.5) -> Index:
    r"""Mark the cells with :math:`\eta_i \ge \theta \max_j \eta_j` [1]_.

    Parameters
    ----------
    indicators : array, shape (n,)
        Indicators :math:`\eta_i`, finite and >= 0.
    theta : float
        In (0, 1]; 1 marks the largest only.

    Returns
    -------
    int array, shape (k,)
        Marked cells, ascending.

    References
    ----------
    .. [1] I. Babuška, M. Vogelius, Feedback and adaptive finite element solution of one-dimensional boundary
       value problems, Numer. Math. 44 (1984).
    """
    eta = _scaled(_per_cell("indicators", indicators))
    _fraction("theta", theta)
    return np.flatnonzero((eta > 0.0) & (eta >= theta * eta.max(initial=0.0)))


def equidistribution(indicators: npt.ArrayLike, tolerance: float, theta: float = 0.9) -> Index:
    r"""Mark the cells with :math:`\eta_i > \theta \, \mathrm{tolerance} / \sqrt{n}` [1]_.

    If nothing is marked, the total :math:`(\sum_i \eta_i^2)^{1/2}` is at most ``theta * tolerance``.

    Parameters
    ----------
    indicators : array, shape (n,)
        Indicators :math:`\eta_i`, finite and >= 0.
    tolerance : float
        For the total, in the unit of the indicators; > 0.
    theta : float
        In (0, 1].

    Returns
    -------
    int array, shape (k,)
        Marked cells, ascending.

    References
    ----------
    .. [1] K. Eriksson, C. Johnson, Adaptive finite element methods for parabolic problems I: A linear model
       problem, SIAM J. Numer. Anal. 28 (1991).
    """
    eta = _per_cell("indicators", indicators)
    _positive("tolerance", tolerance)
    _fraction("theta", theta)
    return np.flatnonzero(eta > theta * tolerance / math.sqrt(max(1, eta.size)))


def fixed_fraction(indicators: npt.ArrayLike, fraction: float) -> Index:
    """Mark the given fraction of the cells, those with the largest indicators.

    Parameters
    ----------
    indicators : array, shape (n,)
        Finite and >= 0.
    fraction : float
        In (0, 1]; ``fraction * n`` is rounded up.

    Returns
    -------
    int array, shape (k,)
        Marked cells, ascending; fewer than asked for if the other indicators are zero.
    """
    eta = _per_cell("indicators", indicators)
    _fraction("fraction", fraction)
    # 0.07 * 100 is 7 and a little more; that little must not cost a cell.
    wanted = math.ceil(fraction * eta.size * (1.0 - 4.0 * np.finfo(float).eps))
    count = min(wanted, int(np.count_nonzero(eta)))
    if count == 0:
        return np.zeros(0, dtype=np.int64)
    smallest = np.partition(eta, eta.size - count)[eta.size - count]
    above, ties = np.flatnonzero(eta > smallest), np.flatnonzero(eta == smallest)
    return np.sort(np.concatenate([above, ties[: count - above.size]]))


def gain_per_cost(
    indicators: npt.ArrayLike, cost: npt.ArrayLike, budget: float | None = None, theta: float = 0.5
) -> Index:
    r"""Mark cells in the order of decreasing :math:`\eta_i^2 / c_i`.

    Without a budget the first cells that carry the part `theta` of the squared estimate are marked.  With a
    budget this is the greedy algorithm for the knapsack problem [1]_: every cell that still fits is marked, or the
    best single cell that fits if it alone is worth more.  The gain is at least half of the largest one possible.

    Parameters
    ----------
    indicators : array, shape (n,)
        Indicators :math:`\eta_i`, finite and >= 0.
    cost : array, shape (n,)
        Costs :math:`c_i` of refining the cells, e.g. numbers of new coefficients; finite and > 0.
    budget : float, optional
        Bound for the sum of the costs; > 0.
    theta : float
        In (0, 1]; read only without a budget.

    Returns
    -------
    int array, shape (k,)
        Marked cells, ascending; none if every cell exceeds the budget.

    Raises
    ------
    ValueError
        If there are not as many costs as indicators, or a number is out of its range.

    References
    ----------
    .. [1] G. B. Dantzig, Discrete-variable extremum problems, Operations Research 5 (1957).

    Examples
    --------
    >>> fem.gain_per_cost([0.1, 0.8, 0.3, 0.5], cost=[1, 40, 5, 5], budget=10)
    array([2, 3])
    """
    eta = _per_cell("indicators", indicators)
    prices = _per_cell("cost", cost, positive=True)
    if prices.shape != eta.shape:
        raise ValueError(f"cost: got shape {prices.shape}, expected {eta.shape}, one entry per indicator")
    _fraction("theta", theta)
    if budget is not None:
        _positive("budget", budget)
    gains = _scaled(eta) ** 2
    candidates = np.flatnonzero(gains if budget is None else gains * (prices <= budget))
    order = candidates[np.argsort(-gains[candidates] / prices[candidates], kind="stable")]
    if budget is None:
        sums = np.cumsum(gains[order])
        return np.sort(order[: np.searchsorted(sums, theta * sums[-1]) + 1]) if order.size else order
    chosen, left = [], budget
    for cell in order:
        if prices[cell] <= left:
            chosen.append(cell)
            left -= prices[cell]
    marked = np.array(chosen, dtype=np.int64)
    best = candidates[np.argmax(gains[candidates])] if candidates.size else None
    if best is not None and gains[best] > gains[marked].sum():
        marked = np.array([best])
    return np.sort(marked)


def _per_cell(name: str, values: npt.ArrayLike, positive: bool = False) -> Array:
    """Return `values` as a float64 vector; complain about anything but finite numbers >= 0, or > 0."""
    raw = real_array(name, values)
    if raw.ndim != 1:
        raise ValueError(f"{name}: got shape {raw.shape}, expected one axis with one entry per cell")
    if raw.dtype.kind == "b":
        raise ValueError(f"{name}: got dtype {raw.dtype}, expected real numbers")
    vector = raw.astype(np.float64)
    right = np.isfinite(vector) & ((vector > 0.0) if positive else (vector >= 0.0))
    if not right.all():
        cell, sign = int(np.argmin(right)), ">" if positive else ">="
        raise ValueError(f"{name}: got {vector[cell]} in cell {cell}, expected finite numbers {sign} 0")
    return vector


def _fraction(name: str, value: float) -> None:
    if not 0.0 < real_number(name, value, "a number in (0, 1]") <= 1.0:
        raise ValueError(f"{name}: got {value}, expected a number in (0, 1]")


def _positive(name: str, value: float) -> None:
    if not 0.0 < real_number(name, value, "a finite number > 0") < math.inf:
        raise ValueError(f"{name}: got {value}, expected a finite number > 0")


def _scaled(eta: Array) -> Array:
    """Divide by a power of two, exactly, so that the largest entry is in [1/2, 1) and no square overflows."""
    scaled: Array = np.ldexp(eta, -np.frexp(eta.max(initial=0.0))[1])
    return scaled
