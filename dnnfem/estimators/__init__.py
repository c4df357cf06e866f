"""A-posteriori estimators, one per file."""

from __future__ import annotations

from dnnfem.estimators.algebraic import algebraic
from dnnfem.estimators.calibration import calibrated, expected_calibration_error
from dnnfem.estimators.confidence import Confidence, confidence
from dnnfem.estimators.enriched import EnrichedSolution, enriched
from dnnfem.estimators.evidence import Evidence, evidence
from dnnfem.estimators.goal_oriented import goal_oriented
from dnnfem.estimators.hierarchical import hierarchical
from dnnfem.estimators.insertion import insertion_sensitivity
from dnnfem.estimators.leave_one_out import generalized_cross_validation, leave_one_out
from dnnfem.estimators.majorant import majorant
from dnnfem.estimators.penalty import penalty_weight
from dnnfem.estimators.quadrature_error import quadrature_error
from dnnfem.estimators.removal import removal
from dnnfem.estimators.residual import residual
from dnnfem.estimators.sampling import sampling
from dnnfem.estimators.slabs import slabs
from dnnfem.estimators.validation import Validation, cross_validation

__all__ = [
    "Confidence",
    "EnrichedSolution",
    "Evidence",
    "Validation",
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
]
