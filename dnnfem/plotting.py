"""Pictures of a run: convergence, indicators, hierarchy.  Each function draws into an axes and returns it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from dnnfem.archive import LevelRecord
from dnnfem.records import Array, Estimate, Index
from dnnfem.spaces import FeedforwardSpace, FlowSpace, Hierarchy

__all__ = ["convergence", "hierarchy", "indicators", "overview", "solves"]

BLUE, ORANGE, GREY = "#1f5fa8", "#d9691e", "#8a8f98"


def _axes(ax: Axes | None) -> Axes:
    return plt.subplots(figsize=(5.0, 3.6), layout="constrained")[1] if ax is None else ax


def convergence(
    levels: Sequence[LevelRecord],
    errors: Sequence[float] | Array | None = None,
    unit: float = 1.0,
    ax: Axes | None = None,
) -> Axes:
    """Draw the estimate of every level over the number of coefficients, and true errors if they are known.

    Parameters
    ----------
    levels : sequence of LevelRecord
        ``archive.levels``; levels without an estimate are left out.
    errors : sequence of float, optional
        One per level with an estimate, in the user's units.
    unit : float
        Factor from totals to the user's units, e.g. ``problem.rms(1.0)``.
    ax : Axes, optional
        Where to draw; default a new figure.

    Returns
    -------
    Axes
        The one drawn into.
    """
    ax = _axes(ax)
    done = [level for level in levels if level.estimate is not None]
    dims = [level.space.dim for level in done]
    totals = np.array([level.estimate.total for level in done if level.estimate is not None]) * unit
    ax.loglog(dims, totals, "o-", color=BLUE, markersize=4, label="estimate")
    if errors is not None:
        ax.loglog(dims, errors, "s--", color=ORANGE, markersize=4, label="error")
    # One tick per level: the decades of a logarithmic axis say little over a factor of ten.
    ax.set_xticks(dims, [str(dim) for dim in dims], rotation=45 if len(dims) > 8 else 0)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("coefficients")
    ax.set_ylabel("error" if unit != 1.0 else "total of the estimate")
    ax.grid(True, which="major", color="#dddddd", linewidth=0.6)
    ax.legend(frameon=False)
    return ax


def solves(levels: Sequence[LevelRecord], ax: Axes | None = None) -> Axes:
    """Draw the value of the functional over the steps of all levels, one after another.

    Parameters
    ----------
    levels : sequence of LevelRecord
        ``archive.levels``; levels that are not solved yet are left out.
    ax : Axes, optional
        Where to draw; default a new figure.

    Returns
    -------
    Axes
        The one drawn into.
    """
    ax = _axes(ax)
    begin = 0
    for level in levels:
        if level.steps is None:
            continue
        values = level.steps.column("value")
        ax.semilogy(begin + np.arange(len(values)), values, ".-", color=BLUE, markersize=3, linewidth=0.8)
        if begin:
            ax.axvline(begin - 0.5, color="#dddddd", linewidth=0.6)
        begin += len(values)
    ax.set_xlabel("steps of all levels")
    ax.set_ylabel("J")
    return ax


def overview(levels: Sequence[LevelRecord], title: str = "") -> Figure:
    """Return a figure with the estimates, the hierarchy and the solves of a run; no display is asked for.

    Parameters
    ----------
    levels : sequence of LevelRecord
        ``archive.levels``.
    title : str
        Of the whole figure.

    Returns
    -------
    Figure
        With three axes.
    """
    figure = Figure(figsize=(14.0, 3.8), layout="constrained")
    axes = figure.subplots(1, 3)
    convergence(levels, ax=axes[0])
    transfers = tuple(level.transfer for level in levels if level.transfer is not None)
    hierarchy(Hierarchy(tuple(level.space for level in levels), transfers), ax=axes[1])
    solves(levels, ax=axes[2])
    figure.suptitle(title)
    return figure


def indicators(estimate: Estimate, marked: Index | None = None, ax: Axes | None = None) -> Axes:
    """Draw the indicators of an estimate, largest first, marked cells in colour.

    Parameters
    ----------
    estimate : Estimate
    marked : int array, shape (k,), optional
        Cells to colour.
    ax : Axes, optional
        Where to draw; default a new figure.

    Returns
    -------
    Axes
        The one drawn into.
    """
    ax = _axes(ax)
    order = np.argsort(-estimate.indicators, kind="stable")
    chosen = np.isin(order, [] if marked is None else marked)
    positions = np.arange(len(order))
    ax.bar(positions, estimate.indicators[order], width=0.8, color=np.where(chosen, ORANGE, GREY))
    ax.set_xlabel("cells, largest indicator first")
    ax.set_ylabel("indicator")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_title(estimate.quantity, fontsize=9)
    if marked is not None:
        ax.text(
            0.98,
            0.92,
            f"{len(marked)} of {len(order)} marked",
            ha="right",
            transform=ax.transAxes,
            color=ORANGE,
        )
    return ax


def hierarchy(spaces: Hierarchy, ax: Axes | None = None) -> Axes:
    """Draw the width of every hidden layer over the levels; for flows, the nodes of the weight mesh of every level.

    Parameters
    ----------
    spaces : Hierarchy
        E.g. ``archive.hierarchy``.
    ax : Axes, optional
        Where to draw; default a new figure.

    Returns
    -------
    Axes
        The one drawn into.
    """
    ax = _axes(ax)
    flows = [space for space in spaces.spaces if isinstance(space, FlowSpace)]
    if len(flows) == len(spaces):
        return _meshes(flows, ax)
    bottom = np.zeros(len(spaces))
    depth = max(len(space.hidden) for space in spaces.spaces if isinstance(space, FeedforwardSpace))
    shades = plt.get_cmap("Blues")(np.linspace(0.45, 0.85, depth))
    for layer in range(depth):
        widths = np.array(
            [
                space.hidden[layer] if isinstance(space, FeedforwardSpace) and layer < len(space.hidden) else 0
                for space in spaces.spaces
            ]
        )
        ax.bar(range(len(spaces)), widths, bottom=bottom, color=shades[layer], label=f"layer {layer}")
        bottom += widths
    for number, space in enumerate(spaces.spaces):
        ax.text(number, bottom[number], str(space.dim), ha="center", va="bottom", fontsize=7, color=GREY)
    ax.set_xlabel("level (above each bar: coefficients)")
    ax.set_ylabel("neurons")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if depth > 1:
        ax.legend(frameon=False)
    return ax


def _meshes(spaces: Sequence[FlowSpace], ax: Axes) -> Axes:
    """Draw one line per level, the first one on top, with the nodes of the steps as dots."""
    for number, space in enumerate(spaces):
        ax.plot(space.state_mesh, np.full(space.steps + 1, number), ".", color=GREY, markersize=3)
        ax.plot(space.weight_mesh, np.full(space.cells + 1, number), "|-", color=BLUE, markersize=9)
        ax.annotate(f" {space.dim}", (space.end, number), va="center", fontsize=7, color=GREY)
    ax.set_xlabel("t (on the right: coefficients)")
    ax.set_ylabel("level")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.invert_yaxis()
    return ax
