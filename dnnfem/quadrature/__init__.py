"""Quadratures: samples, Gauss points on bisected cells, Sobol' points; refinement of those that come from a mesh."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dnnfem._lazy import attach
from dnnfem.quadrature.arrays import as_finite, row_blocks
from dnnfem.quadrature.boxes import BoxMesh
from dnnfem.quadrature.facets import FacetMesh, inside
from dnnfem.quadrature.points import Mesh, Quadrature
from dnnfem.quadrature.sampled import SampledMesh
from dnnfem.quadrature.union import UnionMesh, split
from dnnfem.records import Array

__all__ = [
    "BoxMesh",
    "FacetMesh",
    "Mesh",
    "Quadrature",
    "SampledMesh",
    "SimplexMesh",
    "SobolPoints",
    "UnionMesh",
    "as_finite",
    "mesh_from_attributes",
    "row_blocks",
]

# scipy.stats and scipy.special take longer to import than all that most scripts need.
if TYPE_CHECKING:
    from dnnfem.quadrature.simplices import SimplexMesh as SimplexMesh
    from dnnfem.quadrature.sobol import SobolPoints as SobolPoints
else:
    __getattr__, __dir__ = attach(__name__, {"simplices": ("SimplexMesh",), "sobol": ("SobolPoints",)})

_KINDS = {
    "boxes": "BoxMesh",
    "sobol": "SobolPoints",
    "union": "UnionMesh",
    "simplices": "SimplexMesh",
    "facets": "FacetMesh",
}


def mesh_from_attributes(attributes: Mapping[str, Any], arrays: Mapping[str, Array]) -> Mesh:
    """Rebuild a mesh from `Mesh.attributes` and `Mesh.arrays`.

    Parameters
    ----------
    attributes : mapping of str to number or str
    arrays : mapping of str to array, of the shapes that the kind of mesh has

    Returns
    -------
    Mesh
        Equal to the one that they come from.

    Raises
    ------
    ValueError
        If the kind is unknown.
    """
    values = dict(attributes)
    kind = values.pop("kind", None)
    if kind not in _KINDS:
        raise ValueError(f"mesh: got kind {kind!r}, expected one of {', '.join(_KINDS)}")
    if kind == "union":
        numbered = dict(arrays)
        shares: Any = numbered.pop("shares", None)
        parts, own = split(values), split(numbered)
        return UnionMesh(tuple(mesh_from_attributes(parts[number], own[number]) for number in sorted(parts)), shares)
    if kind == "facets":
        return FacetMesh(mesh_from_attributes(inside(values), inside(arrays)), arrays["normals"])
    mesh: Mesh = getattr(sys.modules[__name__], _KINDS[kind])(**values, **arrays)
    return mesh
