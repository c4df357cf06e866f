"""Backends: the only place that does heavy arithmetic."""

from __future__ import annotations

import importlib
from typing import cast

from dnnfem.kernels.protocol import Backend

BACKENDS = ("reference", "compiled")


def check(name: str) -> None:
    """Raise a `ValueError` if there is no backend `name`."""
    if name not in BACKENDS:
        raise ValueError(f"backend: got {name!r}, expected one of {', '.join(BACKENDS)}")


def load(name: str) -> Backend:
    """Return the backend `name`; its dependencies are imported only now.

    Raises
    ------
    ValueError
        If there is no such backend.
    """
    check(name)
    return cast(Backend, importlib.import_module(f"dnnfem.kernels.{name}"))
