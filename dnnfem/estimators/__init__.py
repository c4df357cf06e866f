"""A-posteriori estimators, one per file."""

from __future__ import annotations

from dnnfem.estimators.algebraic import algebraic
from dnnfem.estimators.calibration import calibrated, expected_calibration_error
from dnnfem.estimators.hierarchical import hierarchical
from dnnfem.estimators.insertion import insertion_sensitivity
from dnnfem.estimators.penalty import penalty_weight
from dnnfem.estimators.removal import removal
from dnnfem.estimators.validation import Validation, cross_validation

__all__ = [
    "Validation",
    "algebraic",
    "calibrated",
    "cross_validation",
    "expected_calibration_error",
    "hierarchical",
    "insertion_sensitivity",
    "penalty_weight",
    "removal",
]
