"""Fields that are modules of torch, as far as spaces have to know them: names and shapes of their parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import scipy.sparse as sp

from dnnfem.kernels.program import Opaque
from dnnfem.records import Array


@dataclass(frozen=True)
class OpaqueMap:
    """A map of `columns` components to `rows` of which only the number of its weights is known.

    It stands among affine maps with activations, and has neither bias nor activation of its own.
    """

    rows: int
    columns: int
    map: Opaque
    activation: str = "identity"
    bias: bool = False

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.map.size


@dataclass(frozen=True)
class StoredModule:
    """The field of an archive that was read without the module: coefficients have their places, but nothing can be run.

    Parameters
    ----------
    names, shapes : tuple of str
        Of the parameters, in the order of theta; shapes such as ``"3x4"``, that of a number is ``""``.
    """

    names: tuple[str, ...]
    shapes: tuple[str, ...]

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(math.prod(map(int, filter(None, shape.split("x")))) for shape in self.shapes)

    def check(self, columns: int, rows: int) -> None:
        """Accept any number of components: nothing is known of them."""

    def maps(self, width: int) -> tuple[OpaqueMap, ...]:
        """Return the one map."""
        return (OpaqueMap(width, width, self),)

    def embedding(self, width: int) -> tuple[sp.csr_array, Array]:
        """Return the identity."""
        return sp.csr_array(sp.eye_array(self.size)), np.zeros(self.size)

    def _missing(self) -> NoReturn:
        raise ValueError(
            f"field: an archive has no modules, only the names and shapes of the parameters {', '.join(self.names)}; "
            "expected a space with the module itself, in `Archive.open` or as `space` in `read`"
        )

    def initial(self, width: int, random: np.random.Generator) -> Array:
        """Raise a `ValueError`."""
        self._missing()

    def __call__(self, weights: Any, y: Any) -> Any:
        """Raise a `ValueError`."""
        self._missing()

    def attributes(self) -> dict[str, Any]:
        """Return names and shapes."""
        return {"field": "module", "names": self.names, "shapes": self.shapes}
