"""What problems of differential equations share: checks, integrals over the domain and over parts of its boundary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from dnnfem.functionals import Integral
from dnnfem.functionals.integral import budget
from dnnfem.kernels.components import order
from dnnfem.kernels.protocol import Law
from dnnfem.problems.domains import Domain
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


class Discretizable(Protocol):
    """What integrals over a domain and over parts of its boundary are made of."""

    @property
    def ansatz(self) -> Any:
        """From the network to the function that laws see."""
        ...

    @property
    def laws(self) -> Mapping[str, Any]:
        """``"law"`` on the domain, others on the regions of the same names."""
        ...

    @property
    def backend(self) -> str | None:
        """Kernels."""
        ...

    @property
    def memory(self) -> int | None:
        """Bytes that a linearization may keep."""
        ...

    @property
    def device(self) -> str | None:
        """Where kernels run."""
        ...

    @property
    def precision(self) -> str:
        """Of the kernels."""
        ...


def integrals(problem: Discretizable, space: NetworkSpace, quadrature: Quadrature) -> dict[str, Integral]:
    """Return the integrals of all laws by name, over the domain first and then over the regions in their order."""
    found = {}
    for name, part in {"law": quadrature, **quadrature.regions}.items():
        memory, region = budget(problem.memory, part, problem.device), None if name == "law" else name
        where = (problem.backend, memory, problem.device, problem.precision)
        found[name] = Integral(space, part, problem.ansatz, problem.laws[name], *where, region=region)
    return found


def check_function(name: str, function: Any, domain: Any, outputs: Any) -> None:
    """Raise a `ValueError` if a law is no function, or domain and number of outputs are none."""
    if not callable(function):
        raise ValueError(f"{name}: got {type(function).__name__}, expected a function {name}(p, u)")
    if not isinstance(domain, Domain):
        raise ValueError(f"domain: got {type(domain).__name__}, expected a Box, Boxes or Simplices")
    if isinstance(outputs, bool) or not isinstance(outputs, int | np.integer) or outputs < 1:
        raise ValueError(f"outputs: got {outputs!r}, expected a positive integer")
