"""Solvers: they see functionals and norms, never samples."""

from __future__ import annotations

from dnnfem.solvers.composite_step import composite_step
from dnnfem.solvers.dense import more_sorensen
from dnnfem.solvers.gauss_newton import gauss_newton
from dnnfem.solvers.krylov import steihaug
from dnnfem.solvers.stochastic import stochastic
from dnnfem.solvers.trust_region import trust_region

__all__ = ["composite_step", "gauss_newton", "more_sorensen", "steihaug", "stochastic", "trust_region"]
