"""Problems: a law, data, and the scaling between the user's coordinates and the reference coordinates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dnnfem._lazy import attach

_public = {
    "boxes": ("Boxes",),
    "classification": ("Classification", "Classifier"),
    "collocation": ("Collocation",),
    "domains": ("Box",),
    "energy": ("Energy",),
    "flux": ("Flux",),
    "modules": ("ModuleField",),
    "regression": ("Regression",),
    "simplices": ("Simplices",),
    "slabs": ("next_slab",),
    "solution": ("Solution",),
    "stability": ("stability",),
    "torched": ("TorchFunction",),
}

# For type checkers and editors; a test keeps it in step with the table.
if TYPE_CHECKING:
    from dnnfem.problems.boxes import Boxes as Boxes
    from dnnfem.problems.classification import Classification as Classification, Classifier as Classifier
    from dnnfem.problems.collocation import Collocation as Collocation
    from dnnfem.problems.domains import Box as Box
    from dnnfem.problems.energy import Energy as Energy
    from dnnfem.problems.flux import Flux as Flux
    from dnnfem.problems.modules import ModuleField as ModuleField
    from dnnfem.problems.regression import Regression as Regression
    from dnnfem.problems.simplices import Simplices as Simplices
    from dnnfem.problems.slabs import next_slab as next_slab
    from dnnfem.problems.solution import Solution as Solution
    from dnnfem.problems.stability import stability as stability
    from dnnfem.problems.torched import TorchFunction as TorchFunction
else:
    __all__ = [name for names in _public.values() for name in names]
    __getattr__, __dir__ = attach(__name__, _public)
