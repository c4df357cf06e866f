"""Adaptive multilevel algorithms for deep learning, organized like an adaptive finite element code.

Public names load when they are first used: ``import dnnfem`` alone is fast and imports no other package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dnnfem._lazy import attach

__version__ = "0.1.0.dev0"

_public = {
    "archive": ("Archive", "ArchiveError", "read"),
    "control": ("decide",),
    "distributed": ("SharedArchive",),
    "estimators": (
        "algebraic",
        "calibrated",
        "confidence",
        "cross_validation",
        "enriched",
        "evidence",
        "expected_calibration_error",
        "generalized_cross_validation",
        "goal_oriented",
        "hierarchical",
        "insertion_sensitivity",
        "leave_one_out",
        "majorant",
        "penalty_weight",
        "quadrature_error",
        "removal",
        "residual",
        "sampling",
        "slabs",
    ),
    "exchange": ("as_torch", "export", "from_torch", "load"),
    "functionals": ("Scaled", "Shifted", "Sum", "Tikhonov", "TimeHorizon", "as_scipy", "condense", "from_callables"),
    "learn": (),
    "marking": ("dorfler", "equidistribution", "fixed_fraction", "gain_per_cost", "maximum"),
    "norms": ("H1", "L2", "Blocks", "Euclidean", "Norm", "Pullback", "Weighted", "pulled_back"),
    "observers": ("observe", "progress"),
    "plotting": (),
    "problems": (
        "Box",
        "Boxes",
        "Classification",
        "Classifier",
        "Collocation",
        "Energy",
        "Flux",
        "ModuleField",
        "Regression",
        "Simplices",
        "Solution",
        "next_slab",
        "stability",
    ),
    "quadrature": ("BoxMesh", "FacetMesh", "Quadrature", "SimplexMesh", "SobolPoints", "UnionMesh"),
    "records": ("Decision", "Estimate", "Interrupted", "Result", "Snapshot", "State", "Status", "Step", "relative"),
    "refinement": (
        "bisect",
        "coarsen",
        "insert_layer",
        "prolongation",
        "refine_quadrature",
        "refine_states",
        "remove_step",
        "ridge_candidates",
        "widen",
    ),
    "solvers": (
        "composite_step",
        "cubic",
        "gauss_newton",
        "multilevel",
        "newton",
        "nleq_err",
        "nlscon",
        "stochastic",
        "trust_region",
    ),
    "spaces": (
        "AffineMap",
        "Antisymmetric",
        "DoubleLayer",
        "FeedforwardSpace",
        "FlowSpace",
        "Hamiltonian",
        "Hierarchy",
        "SingleLayer",
        "TimeSteps",
        "Transfer",
        "register_field",
    ),
    "testing": (),
}

# For type checkers and editors; a test keeps it in step with the table.
if TYPE_CHECKING:
    from dnnfem import learn as learn, plotting as plotting, testing as testing
    from dnnfem.archive import Archive as Archive, ArchiveError as ArchiveError, read as read
    from dnnfem.control import decide as decide
    from dnnfem.distributed import SharedArchive as SharedArchive
    from dnnfem.estimators.algebraic import algebraic as algebraic
    from dnnfem.estimators.calibration import (
        calibrated as calibrated,
        expected_calibration_error as expected_calibration_error,
    )
    from dnnfem.estimators.confidence import confidence as confidence
    from dnnfem.estimators.enriched import enriched as enriched
    from dnnfem.estimators.evidence import evidence as evidence
    from dnnfem.estimators.goal_oriented import goal_oriented as goal_oriented
    from dnnfem.estimators.hierarchical import hierarchical as hierarchical
    from dnnfem.estimators.insertion import insertion_sensitivity as insertion_sensitivity
    from dnnfem.estimators.leave_one_out import (
        generalized_cross_validation as generalized_cross_validation,
        leave_one_out as leave_one_out,
    )
    from dnnfem.estimators.majorant import majorant as majorant
    from dnnfem.estimators.penalty import penalty_weight as penalty_weight
    from dnnfem.estimators.quadrature_error import quadrature_error as quadrature_error
    from dnnfem.estimators.removal import removal as removal
    from dnnfem.estimators.residual import residual as residual
    from dnnfem.estimators.sampling import sampling as sampling
    from dnnfem.estimators.slabs import slabs as slabs
    from dnnfem.estimators.validation import cross_validation as cross_validation
    from dnnfem.exchange import as_torch as as_torch, export as export, from_torch as from_torch, load as load
    from dnnfem.functionals import (
        Scaled as Scaled,
        Shifted as Shifted,
        Sum as Sum,
        Tikhonov as Tikhonov,
        TimeHorizon as TimeHorizon,
        as_scipy as as_scipy,
        condense as condense,
        from_callables as from_callables,
    )
    from dnnfem.marking import (
        dorfler as dorfler,
        equidistribution as equidistribution,
        fixed_fraction as fixed_fraction,
        gain_per_cost as gain_per_cost,
        maximum as maximum,
    )
    from dnnfem.norms import (
        H1 as H1,
        L2 as L2,
        Blocks as Blocks,
        Euclidean as Euclidean,
        Norm as Norm,
        Pullback as Pullback,
        Weighted as Weighted,
        pulled_back as pulled_back,
    )
    from dnnfem.observers import observe as observe, progress as progress
    from dnnfem.problems import (
        Box as Box,
        Boxes as Boxes,
        Classification as Classification,
        Classifier as Classifier,
        Collocation as Collocation,
        Energy as Energy,
        Flux as Flux,
        ModuleField as ModuleField,
        Regression as Regression,
        Simplices as Simplices,
        Solution as Solution,
        next_slab as next_slab,
        stability as stability,
    )
    from dnnfem.quadrature import (
        BoxMesh as BoxMesh,
        FacetMesh as FacetMesh,
        Quadrature as Quadrature,
        SimplexMesh as SimplexMesh,
        SobolPoints as SobolPoints,
        UnionMesh as UnionMesh,
    )
    from dnnfem.records import (
        Decision as Decision,
        Estimate as Estimate,
        Interrupted as Interrupted,
        Result as Result,
        Snapshot as Snapshot,
        State as State,
        Status as Status,
        Step as Step,
        relative as relative,
    )
    from dnnfem.refinement import (
        bisect as bisect,
        coarsen as coarsen,
        insert_layer as insert_layer,
        prolongation as prolongation,
        refine_quadrature as refine_quadrature,
        refine_states as refine_states,
        remove_step as remove_step,
        ridge_candidates as ridge_candidates,
        widen as widen,
    )
    from dnnfem.solvers.composite_step import composite_step as composite_step
    from dnnfem.solvers.cubic import cubic as cubic
    from dnnfem.solvers.gauss_newton import gauss_newton as gauss_newton
    from dnnfem.solvers.multilevel import multilevel as multilevel
    from dnnfem.solvers.newton import newton as newton
    from dnnfem.solvers.nleq import nleq_err as nleq_err
    from dnnfem.solvers.nlscon import nlscon as nlscon
    from dnnfem.solvers.stochastic import stochastic as stochastic
    from dnnfem.solvers.trust_region import trust_region as trust_region
    from dnnfem.spaces import (
        AffineMap as AffineMap,
        Antisymmetric as Antisymmetric,
        DoubleLayer as DoubleLayer,
        FeedforwardSpace as FeedforwardSpace,
        FlowSpace as FlowSpace,
        Hamiltonian as Hamiltonian,
        Hierarchy as Hierarchy,
        SingleLayer as SingleLayer,
        TimeSteps as TimeSteps,
        Transfer as Transfer,
        register_field as register_field,
    )
else:
    __all__ = [name for module, names in _public.items() for name in names or (module,)]
    __getattr__, __dir__ = attach(__name__, _public)
