"""Refinement and coarsening: of spaces with the new space and the transfer as result, and of quadratures."""

from __future__ import annotations

from dnnfem.refinement.candidates import RidgeCandidates, ridge_candidates
from dnnfem.refinement.coarsening import coarsen
from dnnfem.refinement.depth import insert_layer
from dnnfem.refinement.points import refine_quadrature
from dnnfem.refinement.time import bisect, prolongation, refine_states, remove_step
from dnnfem.refinement.width import widen

__all__ = [
    "RidgeCandidates",
    "bisect",
    "coarsen",
    "insert_layer",
    "prolongation",
    "refine_quadrature",
    "refine_states",
    "remove_step",
    "ridge_candidates",
    "widen",
]
