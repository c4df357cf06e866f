"""Meshes of an interval: nodes in increasing order, as tuples, so that spaces that carry them compare and hash."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from dnnfem.records import Array, Index

Nodes = tuple[float, ...]

SAME = 1e-9
"""Nodes this close to each other, relative to the cell between, are the same: midpoints are computed in many ways."""

SHORTEST = 1e-10
"""Cells shorter than this part of the interval are not bisected: nodes would no longer be told apart."""


def check_nodes(name: str, nodes: Any) -> Nodes:
    """Return the nodes of a mesh of ``[0, T]``.

    Raises
    ------
    ValueError
        If they are not at least two finite numbers that increase from zero.
    """
    try:
        array = np.asarray(tuple(nodes), dtype=np.float64)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.ndim != 1 or array.size < 2 or not np.isfinite(array).all():
        raise ValueError(f"{name}: got {nodes!r}, expected at least two finite numbers, from 0 to T")
    if array[0] != 0.0:
        raise ValueError(f"{name}: got a mesh that begins at {array[0]:g}, expected 0")
    wrong = np.flatnonzero(np.diff(array) <= 0.0)
    if wrong.size:
        k = int(wrong[0])
        raise ValueError(
            f"{name}: got {array[k]:g} before {array[k + 1]:g} (number {k + 1}), expected increasing nodes"
        )
    return tuple(array.tolist())


def uniform(end: float, cells: int, name: str = "cells") -> Nodes:
    """Return the nodes of `cells` equal cells of ``[0, end]``; messages call their number `name`.

    Raises
    ------
    ValueError
        If `end` is not positive and finite, or `cells` no positive integer.
    """
    if isinstance(cells, bool) or not isinstance(cells, int | np.integer) or cells < 1:
        raise ValueError(f"{name}: got {cells!r}, expected a positive integer")
    if isinstance(end, bool) or not isinstance(end, int | float | np.floating | np.integer) or not 0 < end < math.inf:
        raise ValueError(f"T: got {end!r}, expected a positive number")
    return tuple((float(end) * (np.arange(cells + 1) / cells)).tolist())


def aligned(coarse: Nodes, fine: Nodes) -> Nodes | None:
    """Return `fine` with the nodes that are the same as some of `coarse` replaced by these; None if one is missing."""
    array, steps = np.array(fine), np.diff(fine)
    for node in coarse:
        k = int(np.argmin(np.abs(array - node)))
        if abs(array[k] - node) > SAME * min(steps[max(k - 1, 0)], steps[min(k, len(steps) - 1)]):
            return None
        array[k] = node
    return tuple(array.tolist())


def parents(coarse: Nodes, fine: Nodes) -> Index:
    """Return the cell of `coarse` that each cell of a refinement lies in, shape (cells of fine,)."""
    middles = 0.5 * (np.array(fine[:-1]) + np.array(fine[1:]))
    found: Index = np.searchsorted(np.array(coarse), middles, side="right") - 1
    return found


def lengths(nodes: Nodes) -> Array:
    """Return the lengths of the cells."""
    return np.diff(nodes)


def check_cells(name: str, cells: Iterable[Any], count: int) -> Index:
    """Return the different numbers of some cells in increasing order.

    Raises
    ------
    ValueError
        If there are none, or one is no integer from 0 to ``count - 1``.
    """
    try:
        chosen = list(cells)
    except TypeError:
        chosen = [None]
    for cell in chosen:
        if isinstance(cell, bool) or not isinstance(cell, int | np.integer) or not 0 <= cell < count:
            raise ValueError(f"{name}: got {cell!r}, expected integers from 0 to {count - 1}")
    if not chosen:
        raise ValueError(f"{name}: got none, expected at least one; where nothing was marked a loop has to stop")
    return np.unique(np.array(chosen, dtype=np.int64))


def with_middles(nodes: Nodes, cells: Index) -> Nodes:
    """Return the mesh with some cells bisected."""
    for k in cells.tolist():
        if nodes[k + 1] - nodes[k] < SHORTEST * nodes[-1]:
            raise ValueError(
                f"cells: got cell {k}, from {nodes[k]:.15g} to {nodes[k + 1]:.15g}: too short to be bisected"
            )
    middles = [0.5 * (nodes[k] + nodes[k + 1]) for k in cells.tolist()]
    return tuple(sorted((*nodes, *middles)))


def with_nodes(nodes: Nodes, more: Iterable[float]) -> Nodes:
    """Return the mesh with those nodes of `more` that it does not have yet."""
    result = list(nodes)
    for node in more:
        position = int(np.searchsorted(result, node))
        gap = result[min(position, len(result) - 1)] - result[max(position - 1, 0)]
        if min(abs(node - other) for other in result[max(position - 1, 0) : position + 1]) > SAME * gap:
            result.insert(position, node)
    return tuple(result)
