"""Refinement and coarsening of spaces; every rule returns the new space and the transfer."""

from __future__ import annotations

from dnnfem.refinement.candidates import RidgeCandidates, ridge_candidates
from dnnfem.refinement.coarsening import coarsen
from dnnfem.refinement.depth import insert_layer
from dnnfem.refinement.width import widen

__all__ = ["RidgeCandidates", "coarsen", "insert_layer", "ridge_candidates", "widen"]
