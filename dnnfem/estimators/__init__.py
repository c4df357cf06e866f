"""A-posteriori estimators, one per file."""

from __future__ import annotations

from dnnfem.estimators.algebraic import algebraic
from dnnfem.estimators.hierarchical import hierarchical
from dnnfem.estimators.removal import removal

__all__ = ["algebraic", "hierarchical", "removal"]
