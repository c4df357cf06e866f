"""Records as plain datasets and attributes, and back.  Nothing is pickled and nothing stored is ever executed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import h5py
import numpy as np
import scipy.sparse as sp

from dnnfem.archive.container import VERSION, ArchiveError
from dnnfem.quadrature import Quadrature, mesh_from_attributes
from dnnfem.records import STEP_FIELDS, Array, Estimate, State, Status, Step, Steps
from dnnfem.spaces import FlowSpace, Transfer, space_from_attributes
from dnnfem.spaces.feedforward import Neuron
from dnnfem.spaces.layout import NetworkSpace

LONG = 1024
"""Numbers of an attribute from which on it is stored as a dataset: HDF5 has room for 64 kB."""

_INTEGERS = ("number", "inner")
_STEP_TYPE = np.dtype([(name, np.int64 if name in _INTEGERS else np.float64) for name in STEP_FIELDS])


def _plain(value: Any) -> Any:
    """Turn an HDF5 attribute back into Python."""
    if isinstance(value, np.ndarray):
        return tuple(value.tolist())
    return value.item() if isinstance(value, np.generic) else value


def put(group: h5py.Group, name: str, value: Any) -> None:
    """Write or overwrite a dataset, in place if the shape allows it, so that the file does not grow."""
    array = np.asarray(value)
    if name in group:
        dataset = group[name]
        if dataset.shape == array.shape and dataset.dtype == array.dtype:
            dataset[...] = array
            return
        if dataset.maxshape[0] is None and dataset.shape[1:] == array.shape[1:]:
            dataset.resize(array.shape)
            dataset[...] = array
            return
        del group[name]
    growing = array.dtype.names is not None
    group.create_dataset(name, data=array, maxshape=(None,) if growing else None, chunks=(64,) if growing else None)


def write_space(group: h5py.Group, space: NetworkSpace) -> None:
    """Store the attributes of a space; those that are too large for HDF5's as datasets, e.g. nodes of a fine mesh.

    Raises
    ------
    ValueError
        If the space is of a kind that cannot be rebuilt, or has a field that is not registered.
    """
    attributes = space.attributes()
    # What could not be read again is refused now, not when the run is resumed.
    space_from_attributes(attributes)
    for name, value in attributes.items():
        if np.size(value) > LONG:
            put(group, name, value)
        else:
            group.attrs[name] = value


def read_space(group: h5py.Group, like: NetworkSpace | None = None) -> NetworkSpace:
    """Rebuild a space; if its field is a module, which is not stored, it is that of the space `like`.

    Raises
    ------
    ArchiveError
        If the module that is given has parameters of other names or shapes.
    """
    attributes = {name: _plain(value) for name, value in group.attrs.items()}
    space = space_from_attributes(attributes | {name: _plain(data[()]) for name, data in group.items()})
    if not isinstance(space, FlowSpace) or not isinstance(like, FlowSpace):
        return space
    stored, given = (s.field.attributes() for s in (space, like))
    if not stored["field"] == given["field"] == "module":
        return space
    for number, (own, other) in enumerate(zip_longest(_parameters(stored), _parameters(given), fillvalue="none")):
        if own != other:
            raise ArchiveError(
                f"{group.file.filename}: was started with another module, with {own} as parameter {number}, got "
                f"{other}; choose another file name or pass the module that it was started with"
            )
    return replace(space, field=like.field) if stored == given else space


def _parameters(attributes: dict[str, Any]) -> list[str]:
    """Return the parameters of a module in words."""
    pairs = zip(attributes["names"], attributes["shapes"], strict=True)
    return [f"{name} ({shape or 'a number'})" for name, shape in pairs]


def write_transfer(group: h5py.Group, transfer: Transfer) -> None:
    """Store a transfer as CSR arrays and offset."""
    group.attrs["shape"] = transfer.shape
    for name in ("data", "indices", "indptr"):
        put(group, name, getattr(transfer.matrix, name))
    put(group, "offset", transfer.offset)


def read_transfer(group: h5py.Group) -> Transfer:
    """Rebuild a transfer."""
    arrays = (group["data"][()], group["indices"][()], group["indptr"][()])
    return Transfer(sp.csr_array(arrays, shape=tuple(group.attrs["shape"])), group["offset"][()])


def write_quadrature(group: h5py.Group, quadrature: Quadrature) -> None:
    """Store a quadrature that was built, not given.

    Raises
    ------
    ValueError
        If its mesh is of a kind that cannot be rebuilt.
    """
    for name in ("points", "weights", "data", "cells"):
        if getattr(quadrature, name) is not None:
            put(group, name, getattr(quadrature, name))
    if quadrature.mesh is not None:
        attributes, arrays = quadrature.mesh.attributes(), quadrature.mesh.arrays()
        # What could not be read again is refused now, not when the run is resumed.
        mesh_from_attributes(attributes, arrays)
        mesh = group.create_group("mesh")
        mesh.attrs.update(attributes)
        for name, array in arrays.items():
            put(mesh, name, array)
    if quadrature.regions:
        regions = group.create_group("regions")
        # Groups are read in the order of their names.
        regions.attrs["order"] = list(quadrature.regions)
        for name, region in quadrature.regions.items():
            write_quadrature(regions.create_group(name), region)


def read_quadrature(group: h5py.Group) -> Quadrature:
    """Rebuild a quadrature, with the points that are stored: those of the mesh may differ by rounding elsewhere."""
    arrays = {name: group[name][()] for name in ("points", "weights", "data", "cells") if name in group}
    mesh = None
    if "mesh" in group:
        attributes = {name: _plain(value) for name, value in group["mesh"].attrs.items()}
        mesh = mesh_from_attributes(attributes, {name: array[()] for name, array in group["mesh"].items()})
    regions = {}
    if "regions" in group:
        regions = {name: read_quadrature(group["regions"][name]) for name in group["regions"].attrs["order"]}
    return Quadrature(**arrays, mesh=mesh, regions=regions)


def append_level(
    file: h5py.File, space: NetworkSpace, x: Array, radius: float | None, quadrature: Quadrature, given: Quadrature
) -> h5py.Group:
    """Begin a level; the quadrature is stored once, by its content, and not at all if it is the given one."""
    group = file.create_group(f"levels/{len(file.require_group('levels')):04d}")
    write_space(group.create_group("space"), space)
    put(group, "start", x)
    group.attrs["carried_radius"] = math.nan if radius is None else radius
    group.attrs["quadrature"] = quadrature.hash
    if quadrature.hash != given.hash and f"quadratures/{quadrature.hash}" not in file:
        write_quadrature(file.create_group(f"quadratures/{quadrature.hash}"), quadrature)
    return group


def write_solve(group: h5py.Group, state: State, steps: Steps, status: Status | None, algebraic: float) -> None:
    """Store state, table and status of a solve, and the memory of the solver if it has one."""
    group.attrs["radius"] = math.nan if state.radius is None else state.radius
    words = {"status": "", "sentence": ""} if status is None else {"status": status.name, "sentence": status.value}
    for name, word in words.items():
        # A string that is written anew takes new room in the file.
        if group.attrs.get(name) != word:
            group.attrs[name] = word
    group.attrs["algebraic"] = algebraic
    rows = [tuple(getattr(step, name) for name in STEP_FIELDS) for step in steps]
    put(group, "steps", np.array(rows, dtype=_STEP_TYPE))
    memory = {} if state.progress is None else state.progress.memory
    if not memory or set(group.get("memory", {})) != set(memory):
        group.pop("memory", None)
    for name, value in memory.items():
        put(group.require_group("memory"), name, value)


def read_memory(group: h5py.Group) -> dict[str, Array]:
    """Return the memory of a solver; files of the first versions have none."""
    return {name: np.asarray(data[()]) for name, data in group.get("memory", {}).items()}


def _step(row: Any) -> Step:
    """Return a row of a table; older files have fewer columns, and what is not a number is the default."""
    found = {name: row[name].item() for name in STEP_FIELDS if name in row.dtype.names}
    return Step(found.pop("number"), found.pop("value"), **{key: item for key, item in found.items() if item == item})


def read_solve(group: h5py.Group) -> tuple[float | None, Steps, Status | None]:
    """Return radius, table and status of a solve."""
    table = group["steps"][()]
    steps = Steps(tuple(_step(row) for row in table))
    radius = float(group.attrs["radius"])
    name = group.attrs["status"]
    return (radius if math.isfinite(radius) else None, steps, Status[name] if name else None)


def write_estimate(group: h5py.Group, estimate: Estimate) -> None:
    """Store an estimate.

    Raises
    ------
    ValueError
        If its cells are neither neurons nor numbers nor strings.
    """
    group.attrs["quantity"] = estimate.quantity
    group.attrs["total"] = estimate.total
    group.attrs["guaranteed"] = estimate.guaranteed
    parts = group.require_group("parts")
    for name, value in estimate.parts.items():
        parts.attrs[name] = value
    for name in ("indicators", "signed", "cost"):
        if getattr(estimate, name) is not None:
            put(group, name, getattr(estimate, name))
    if estimate.remarks:
        put(group, "remarks", np.array(estimate.remarks, dtype=h5py.string_dtype()))
    cells = list(estimate.cells)
    if cells and all(isinstance(cell, Neuron) for cell in cells):
        neurons = group.require_group("neurons")
        put(neurons, "layer", np.array([cell.layer for cell in cells], dtype=np.int64))
        put(neurons, "bias", np.array([cell.bias for cell in cells]))
        put(neurons, "fan_in", np.array([len(cell.weights) for cell in cells], dtype=np.int64))
        put(neurons, "weights", np.concatenate([cell.weights for cell in cells]))
    elif cells:
        put(group, "cells", _cells(cells))


def _cells(cells: list[Any]) -> Any:
    """Return cells as an array that HDF5 can hold."""
    try:
        array = np.array(cells)
    except ValueError:  # rows of different lengths
        array = np.array(None)
    if array.dtype.kind in "biuf":
        return array
    if array.dtype.kind == "U":
        words = np.array(cells, dtype=object)
        # Numbers among strings would become strings.
        if all(isinstance(word, str) for word in words.ravel()):
            return words.astype(h5py.string_dtype())
    kinds = ", ".join(sorted({type(cell).__name__ for cell in cells}))
    raise ValueError(
        f"estimate: got cells of type {kinds}, expected neurons, numbers, strings, or tuples of numbers or of strings "
        "that are all of one length"
    )


def read_estimate(group: h5py.Group) -> Estimate:
    """Rebuild an estimate."""
    indicators = group["indicators"][()]
    cells: Any = np.arange(len(indicators))
    if "neurons" in group:
        neurons = group["neurons"]
        ends = np.cumsum(neurons["fan_in"][()])[:-1]
        rows = zip(neurons["layer"][()], np.split(neurons["weights"][()], ends), neurons["bias"][()], strict=True)
        cells = np.empty(len(indicators), dtype=object)
        cells[:] = [Neuron(int(layer), weights, float(bias)) for layer, weights, bias in rows]
    elif "cells" in group:
        stored = group["cells"]
        cells = stored.asstr()[()].astype(np.str_) if h5py.check_string_dtype(stored.dtype) else stored[()]
    return Estimate(
        quantity=str(group.attrs["quantity"]),
        cells=cells,
        indicators=indicators,
        total=float(group.attrs["total"]),
        signed=group["signed"][()] if "signed" in group else None,
        parts={name: float(value) for name, value in group["parts"].attrs.items()},
        cost=group["cost"][()] if "cost" in group else None,
        guaranteed=bool(group.attrs["guaranteed"]),
        # Files of the first versions have none.
        remarks=tuple(group["remarks"].asstr()[()]) if "remarks" in group else (),
    )


def write_plain(group: h5py.Group, data: Mapping[str, Any]) -> None:
    """Store plain data: strings as attributes, arrays as datasets."""
    for name, value in data.items():
        if isinstance(value, str):
            group.attrs[name] = value
        else:
            array = np.asarray(value)
            put(group, name, array.astype(h5py.string_dtype()) if array.dtype.kind == "U" else array)


def read_plain(group: h5py.Group) -> dict[str, Any]:
    """Return plain data."""
    arrays = {
        name: data.asstr()[()].astype(np.str_) if h5py.check_vlen_dtype(data.dtype) else data[()]
        for name, data in group.items()
    }
    return {**dict(group.attrs.items()), **arrays}


def write_ansatz(file: h5py.File, problem: Any) -> None:
    """Store what turns networks into solutions, and the labels of classes; nothing of a problem that does not say."""
    attributes = getattr(getattr(problem, "ansatz", None), "attributes", None)
    if attributes is not None:
        classes = getattr(problem, "classes", None)
        write_plain(file.create_group("ansatz"), attributes() | ({} if classes is None else {"classes": classes}))


def migrate(file: h5py.File, problem: Any) -> None:
    """Bring a file that is written to from an older version of the format to the present one."""
    if file.attrs["format_version"] < 2:
        write_ansatz(file, problem)
    if file.attrs["format_version"] != VERSION:
        file.attrs["format_version"] = VERSION


def identity_differences(group: h5py.Group, identity: Mapping[str, Any]) -> list[str]:
    """Return the names of what differs between a stored problem and a given one."""
    stored = read_plain(group)
    names = [name for name in identity if name not in stored or not np.array_equal(stored[name], identity[name])]
    return names + [name for name in stored if name not in identity]
