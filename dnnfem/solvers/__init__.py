"""Solvers: they see functionals and norms, never samples."""

from __future__ import annotations

from dnnfem.solvers.composite_step import composite_step
from dnnfem.solvers.conjugate_gradients import conjugate_gradients
from dnnfem.solvers.cubic import cubic
from dnnfem.solvers.dense import more_sorensen
from dnnfem.solvers.gauss_newton import gauss_newton
from dnnfem.solvers.krylov import steihaug
from dnnfem.solvers.lanczos import gltr
from dnnfem.solvers.multilevel import multilevel
from dnnfem.solvers.newton import newton
from dnnfem.solvers.nleq import nleq_err
from dnnfem.solvers.nlscon import nlscon
from dnnfem.solvers.stochastic import stochastic
from dnnfem.solvers.trust_region import trust_region

__all__ = [
    "composite_step",
    "conjugate_gradients",
    "cubic",
    "gauss_newton",
    "gltr",
    "more_sorensen",
    "multilevel",
    "newton",
    "nleq_err",
    "nlscon",
    "steihaug",
    "stochastic",
    "trust_region",
]
