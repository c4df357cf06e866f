"""Refinement in time: the weight mesh of a flow is bisected or coarsened, its state mesh refined."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from dnnfem.records import Array
from dnnfem.spaces import FlowSpace, Transfer
from dnnfem.spaces.fields import standing, vanishing
from dnnfem.spaces.flow import check_flow
from dnnfem.spaces.meshes import SAME, Nodes, aligned, check_cells, parents, with_middles, with_nodes
from dnnfem.spaces.schemes import SCHEMES


def bisect(space: FlowSpace, cells: Iterable[Any]) -> tuple[FlowSpace, Transfer]:
    """Bisect cells of the weight mesh; the state mesh gets those midpoints that it does not have.

    As long as it has them all the prolonged iterate is the same network.  If not, the scheme becomes more accurate, and
    the functional changes by what its steps are off: keep the state mesh fine enough.

    Parameters
    ----------
    space : FlowSpace
    cells : iterable of int
        Numbers of cells, e.g. ``estimate.cells[marked]``.

    Returns
    -------
    space : FlowSpace
    transfer : Transfer
        Theta as a function of time stays what it is.

    Raises
    ------
    ValueError
        If the space is no flow, there are no cells, or a number is none of a cell.

    Examples
    --------
    >>> space = fem.FlowSpace.uniform(inputs=2, width=4, outputs=1, cells=2, steps=8)
    >>> fine, P = fem.bisect(space, [1])
    >>> fine.weight_mesh, fine.steps
    ((0.0, 0.5, 0.75, 1.0), 8)
    """
    chosen = check_cells("cells", cells, check_flow(space).cells)
    weight_mesh = with_middles(space.weight_mesh, chosen)
    fine = replace(space, weight_mesh=weight_mesh, state_mesh=with_nodes(space.state_mesh, weight_mesh))
    return fine, prolongation(space, fine)


def refine_states(space: FlowSpace, steps: Iterable[Any]) -> tuple[FlowSpace, Transfer]:
    """Bisect steps; the coefficients are the same, the functional becomes that of a more accurate scheme.

    Parameters
    ----------
    space : FlowSpace
    steps : iterable of int
        Numbers of steps, e.g. ``estimate.cells[marked]``.

    Returns
    -------
    space : FlowSpace
    transfer : Transfer
        The identity.

    Raises
    ------
    ValueError
        If the space is no flow, there are no steps, or a number is none of a step.
    """
    chosen = check_cells("steps", steps, check_flow(space).steps)
    return replace(space, state_mesh=with_middles(space.state_mesh, chosen)), Transfer.identity(space.dim)


def merge(space: FlowSpace, cells: Iterable[Any]) -> tuple[FlowSpace, Transfer]:
    """Merge cells of the weight mesh with those after them; the state mesh stays.

    Parameters
    ----------
    space : FlowSpace
    cells : iterable of int
        Numbers of cells; the node at the end of each goes.

    Returns
    -------
    space : FlowSpace
        The coarser space.
    transfer : Transfer
        From the *coarser* space into the old one; the iterate goes by ``transfer.project(x, norm)``.

    Raises
    ------
    ValueError
        If there are no cells, or a number is none of a cell that another one follows; or there is only one.
    """
    if check_flow(space).cells == 1:
        raise ValueError(f"space: got {space}, expected more than one cell")
    gone = set((check_cells("cells", cells, space.cells - 1) + 1).tolist())
    mesh = tuple(node for number, node in enumerate(space.weight_mesh) if number not in gone)
    coarse = replace(space, weight_mesh=mesh)
    return coarse, prolongation(coarse, space)


def insert_step(space: FlowSpace, position: int) -> tuple[FlowSpace, Transfer]:
    """Insert a cell on which the state stands still, as long as the others are in the mean: T grows by that.

    Parameters
    ----------
    space : FlowSpace
        With piecewise constant weights, and a field that vanishes for some theta without being stuck there.
    position : int
        From 0 (after the encoder) to ``cells`` (before the decoder).

    Returns
    -------
    space : FlowSpace
        With one more cell and as many more steps as cells have in the mean.
    transfer : Transfer
        The function of ``P(x)`` is that of ``x``.

    Raises
    ------
    ValueError
        If `position` is out of range, the weights are not piecewise constant, or there is no such theta.
    """
    cells = check_flow(space).cells
    if isinstance(position, bool) or not isinstance(position, int | np.integer) or not 0 <= position <= cells:
        raise ValueError(f"position: got {position!r}, expected 0 to {space.cells} for {space}")
    if space.degree:
        raise ValueError(f"space: got {space}, expected piecewise constant weights: others would bend on both sides")
    still = vanishing(space.field, space.width)
    length, count = space.end / space.cells, max(1, round(space.steps / space.cells))
    place = space.weight_mesh[position]

    def inserted(mesh: Nodes, more: Array) -> Nodes:
        before, after = [t for t in mesh if t <= place], [t + length for t in mesh if t > place]
        return (*before, *(place + length * more).tolist(), *after)

    fine = replace(
        space,
        weight_mesh=inserted(space.weight_mesh, np.ones(1)),
        state_mesh=inserted(space.state_mesh, np.arange(1, count + 1) / count),
    )
    return fine, _with_cell(fine, position, still)


def remove_step(space: FlowSpace, cell: int) -> tuple[FlowSpace, Transfer]:
    """Remove a cell of the weight mesh with its steps, e.g. one that hardly moves the state; T shrinks by its length.

    Parameters
    ----------
    space : FlowSpace
        With piecewise constant weights, a field that vanishes for some theta, and more than one cell.
    cell : int

    Returns
    -------
    space : FlowSpace
        The smaller space.
    transfer : Transfer
        From the *smaller* space into the old one, with a cell on which the state stands still; the iterate goes by
        ``transfer.project(x)``.

    Raises
    ------
    ValueError
        If the space is no flow, there is no such cell, it is the only one, the weights are not piecewise constant, or
        no theta keeps the state as it is.
    """
    (number,) = check_cells("cell", [cell], check_flow(space).cells)
    if space.cells == 1 or space.degree:
        raise ValueError(f"space: got {space}, expected piecewise constant weights on more than one cell")
    begin, end = space.weight_mesh[number : number + 2]
    gap = end - begin

    def cut(mesh: Nodes) -> Nodes:
        return (*(t for t in mesh if t <= begin), *(t - gap for t in mesh if t > end))

    coarse = replace(space, weight_mesh=cut(space.weight_mesh), state_mesh=cut(space.state_mesh))
    return coarse, _with_cell(space, int(number), standing(space.field, space.width))


def _with_cell(fine: FlowSpace, cell: int, theta: Array) -> Transfer:
    """Return the transfer into a space that has one cell more, with its `theta` there."""
    new, offset = fine.at(cell), np.zeros(fine.dim)
    offset[new] = theta
    kept = np.setdiff1d(np.arange(fine.dim), new)
    return Transfer(sp.csr_array(sp.csc_array(sp.eye_array(fine.dim))[:, kept]), offset)


def applied(space: FlowSpace) -> float:
    """Return the number of weights that a step applies to each sample: its share in the work of a sweep."""
    scheme = SCHEMES[space.scheme]
    return float(len(scheme.rows) * sum(part.size for part in space.field.maps(space.width)))


def bisection_costs(space: FlowSpace) -> Array:
    """Return what bisecting each cell adds, shape (cells,): coefficients, and the weights that a new step applies."""
    middles = 0.5 * (np.array(space.weight_mesh[:-1]) + np.array(space.weight_mesh[1:]))
    steps = [len(with_nodes(space.state_mesh, [middle])) - len(space.state_mesh) for middle in middles.tolist()]
    return space.size + applied(space) * np.array(steps)


def prolongation(coarse: FlowSpace, fine: FlowSpace) -> Transfer:
    """Return the transfer between two flows of which one has a refined weight mesh: theta stays the same function.

    It does not depend on the state meshes: coarse levels may have coarse ones, as for `dnnfem.multilevel`.

    Parameters
    ----------
    coarse, fine : FlowSpace

    Returns
    -------
    Transfer
        From `coarse` to `fine`.

    Raises
    ------
    ValueError
        If the spaces differ in more than their meshes, or the weight mesh of `fine` lacks nodes of that of `coarse`.
    """
    other = replace(check_flow(coarse), weight_mesh=check_flow(fine).weight_mesh, state_mesh=fine.state_mesh)
    if other != fine:
        raise ValueError(f"fine: got {fine}, expected {coarse} with other meshes")
    if abs(fine.end - coarse.end) > SAME * fine.end or aligned(coarse.weight_mesh, fine.weight_mesh) is None:
        raise ValueError(f"fine: got {fine.cells} cells, expected a refinement of the {coarse.cells} cells of coarse")
    values = sp.kron(_interpolation(coarse.weight_mesh, fine.weight_mesh, coarse.degree), sp.eye_array(coarse.size))
    ends = [sp.eye_array(fine.theta_start), sp.eye_array(fine.dim - fine.theta_stop)]
    matrix = sp.csr_array(sp.block_diag((ends[0], values, ends[1])))
    return Transfer(matrix, np.zeros(fine.dim))


def _interpolation(coarse: Nodes, fine: Nodes, degree: int) -> Array:
    """Return the values at fine cells or nodes from those at coarse ones."""
    if degree == 0:
        return np.eye(len(coarse) - 1)[parents(coarse, fine)]
    hats = np.eye(len(coarse))
    return np.column_stack([np.interp(fine, coarse, hat) for hat in hats])
