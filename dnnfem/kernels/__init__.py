"""Backends: the only place that does heavy arithmetic."""

from __future__ import annotations

import importlib
import re
from typing import Any, cast

from dnnfem.kernels.program import Program
from dnnfem.kernels.protocol import MEMORY, Ansatz, Backend, Evaluator, Law, PlacedPoints

BACKENDS = ("reference", "compiled", "device", "distributed")

PRECISIONS = ("double", "single")

DEVICE = re.compile(r"cpu|cuda(:\d+)?")


def check(name: str | None, device: str | None = None, precision: str = "double") -> None:
    """Check that there is a backend, and that it computes as is asked for.

    Whether there is such a device is seen when something is placed there.

    Parameters
    ----------
    name : str or None
        Backend; None for the default.
    device : str, optional
        E.g. ``"cuda:1"``.
    precision : str
        ``"double"`` or ``"single"``.

    Raises
    ------
    ValueError
        If there is no such backend, or it does not compute as the other two say.
    """
    name = "compiled" if name is None else name
    if name not in BACKENDS:
        raise ValueError(f"backend: got {name!r}, expected one of {', '.join(BACKENDS)}")
    if device is not None and not (isinstance(device, str) and DEVICE.fullmatch(device)):
        raise ValueError(f"device: got {device!r}, expected cpu, cuda, cuda:0, cuda:1, ..., or None")
    if device is not None and name == "reference":
        raise ValueError(f"device: got {device!r} for the backend reference, expected None, or the backend device")
    if precision not in PRECISIONS:
        raise ValueError(f"precision: got {precision!r}, expected one of {', '.join(PRECISIONS)}")
    if precision != "double" and device is None and name != "device":
        raise ValueError(f"precision: got {precision!r} for the backend {name}, expected double, or a device")


def load(name: str) -> Backend:
    """Return a backend; its dependencies are imported only now.

    Parameters
    ----------
    name : str
        ``"compiled"``, ``"reference"`` or ``"device"``.

    Returns
    -------
    Backend
        The module.

    Raises
    ------
    ValueError
        If there is no such backend.
    """
    check(name)
    return cast(Backend, importlib.import_module(f"dnnfem.kernels.{name}"))


def place(
    program: Program,
    quadrature: PlacedPoints,
    ansatz: Ansatz,
    law: Law,
    memory: int | None = MEMORY,
    backend: str | None = None,
    device: str | None = None,
    precision: str = "double",
) -> Evaluator:
    """Bind program, quadrature, ansatz and law with a backend; with a `device`, that of devices.

    The default is the compiled backend, or that of devices for a program with an opaque map; the distributed one has
    the default on the share of each process.

    Parameters
    ----------
    program : Program
        Of a space.
    quadrature : PlacedPoints
        Points, weights and data.
    ansatz : Ansatz
        Maps between the user's coordinates and units and those of the program.
    law : Law
        What is integrated.
    memory : int, optional
        Bytes that a linearization may keep.
    backend, device, precision : str, optional
        See `check`.

    Returns
    -------
    Evaluator
        Of the functional on this space at these points.

    Raises
    ------
    ValueError
        If there is no such backend, device or precision, or the backend cannot run the program.
    """
    if backend is None:
        backend = "device" if program.is_opaque else "compiled"
    check(backend, device, precision)
    if device is None and backend not in ("device", "distributed"):
        return load(backend).place(program, quadrature, ansatz, law, MEMORY if memory is None else memory)
    distributed = backend == "distributed"
    devices: Any = load("distributed" if distributed else "device")
    where = device if distributed else device or "cpu"
    placed: Evaluator = devices.place(program, quadrature, ansatz, law, memory, where, precision)
    return placed
