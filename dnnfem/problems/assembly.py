"""What problems of differential equations share: checks, integrals over the domain and over parts of its boundary."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dnnfem.functionals import Integral
from dnnfem.functionals.integral import budget
from dnnfem.kernels.components import order
from dnnfem.kernels.protocol import Ansatz, Law
from dnnfem.problems.unknowns import check_unknowns
from dnnfem.quadrature import Quadrature
from dnnfem.spaces.layout import NetworkSpace


def check_quadrature(quadrature: Quadrature, inputs: int, names: Sequence[str]) -> None:
    """Raise a `ValueError` if a quadrature has not the coordinates or not the regions of a problem."""
    if quadrature.inputs != inputs:
        raise ValueError(f"quadrature: got points with {quadrature.inputs} coordinates, expected {inputs}")
    if set(quadrature.regions) != set(names):
        raise ValueError(f"quadrature: got the regions {list(quadrature.regions)}, expected {names}")


def check_space(
    space: NetworkSpace, outputs: int, periodic: tuple[int, ...], laws: Iterable[Law], unknowns: int = 0
) -> None:
    """Raise a `ValueError` if a space has not the outputs, unknowns, periods or the smoothness that laws ask for."""
    if space.outputs != outputs:
        raise ValueError(f"space: got {space.outputs} outputs ({space}), expected {outputs}")
    check_unknowns(space, unknowns)
    found = tuple(getattr(space, "periodic", ()))
    if set(found) != set(periodic):
        raise ValueError(f"space: got {space}, periodic in {found}, expected one that is in {periodic}")
    highest = max(order(component) for law in laws for component in law.components)
    if getattr(space, "activation", None) == "relu" and highest > 0:
        raise ValueError(f"space: got {space}, expected a smooth activation for derivatives of order {highest}")


def integral(
    name: str,
    law: Law,
    space: NetworkSpace,
    quadrature: Quadrature,
    ansatz: Ansatz,
    backend: str,
    memory: int | None,
    device: str | None,
    precision: str,
) -> Integral:
    """Return the integral of a law, over the domain if it is called ``"law"``, else over the region of that name."""
    region = None if name == "law" else name
    part = quadrature if region is None else quadrature.regions[region]
    where = (backend, budget(memory, part, device), device, precision)
    return Integral(space, part, ansatz, law, *where, region=region)
