"""Quadratures: what is refused, what simply works, and what a subset and a hash mean; meshes and their refinement."""

import copy
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

from dnnfem.quadrature import BoxMesh, Quadrature, SobolPoints, UnionMesh, as_finite, mesh_from_attributes
from dnnfem.refinement import refine_quadrature
from dnnfem.testing import convergence_order

POINTS = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 6.0]])
WEIGHTS = np.array([1.0, 2.0, 3.0])
DATA = np.array([1.0, -1.0, 0.5])

BAD = {
    "NaN among the points": ({"points": [[0.0, np.nan], [1.0, 1.0], [2.0, 2.0]]}, "points", "NaN"),
    "infinity among the points": ({"points": [[0.0, 1.0], [1.0, 1.0], [np.inf, 2.0]]}, "points", "row 2"),
    "points with three axes": ({"points": np.ones((3, 2, 1))}, "points", "(3, 2, 1)"),
    "a number for the points": ({"points": 1.0}, "points", "()"),
    "no points": ({"points": np.empty((0, 2)), "weights": []}, "points", "none"),
    "points that are objects": ({"points": np.array([[None, 1.0]] * 3, dtype=object)}, "points", "object"),
    "complex points": ({"points": POINTS + 1j}, "points", "complex"),
    "points that are words": ({"points": [["a", "b"]] * 3}, "points", "<U"),
    "points that are dates": (
        {"points": np.array([["2020-01-01"]] * 3, dtype="M8[D]")},
        "points",
        "datetime",
    ),
    "ragged points": ({"points": [[0.0, 1.0], [2.0], [3.0, 4.0]]}, "points", ""),
    "a weight too few": ({"weights": [1.0, 2.0]}, "weights", "(2,)"),
    "a zero weight": ({"weights": [1.0, 0.0, 1.0]}, "weights", "0.0"),
    "a negative weight": ({"weights": [1.0, -2.0, 1.0]}, "weights", "-2.0"),
    "a weight that is NaN": ({"weights": [1.0, np.nan, 1.0]}, "weights", "row 1"),
    "weights with two axes": ({"weights": np.ones((3, 1))}, "weights", "(3, 1)"),
    "data of another length": ({"data": [1.0, 2.0]}, "data", "2 rows"),
    "infinite data": ({"data": [1.0, -np.inf, 2.0]}, "data", "row 1"),
    "data with three axes": ({"data": np.ones((3, 1, 1))}, "data", "(3, 1, 1)"),
    "cells of another length": ({"cells": [0, 1]}, "cells", "(2,)"),
    "a negative cell": ({"cells": [0, -1, 2]}, "cells", "-1"),
    "cells with two axes": ({"cells": [[0], [1], [2]]}, "cells", "(3, 1)"),
    "cells that are fractions": ({"cells": [0.0, 0.5, 1.0]}, "cells", "float64"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_by_name_with_what_was_got_and_what_is_expected(case):
    change, name, got = BAD[case]
    with pytest.raises(ValueError, match=rf"^{name}: got.*expected") as error:
        Quadrature(**{"points": POINTS, "weights": WEIGHTS, "data": DATA, **change})
    assert got in str(error.value)


@pytest.mark.parametrize(
    "weights", [[1.0, 0.0, 1.0], [-1.0, 2.0, 1.0], [np.inf, 1.0, 1.0], [1.0, 1.0], np.ones((3, 1))]
)
def test_samples_refuse_bad_weights(weights):
    with pytest.raises(ValueError, match="^weights: got.*expected"):
        Quadrature.samples(POINTS, DATA, weights)


def test_a_single_point_is_a_quadrature():
    quadrature = Quadrature([[1.0]], [2.0])
    assert (len(quadrature), quadrature.inputs, quadrature.data.shape) == (1, 1, (1, 0))


def test_a_vector_of_points_is_one_dimensional_and_every_point_has_its_own_cell():
    quadrature = Quadrature([1, 2, 3], [1, 1, 1], [True, False, True])
    assert quadrature.points.shape == quadrature.data.shape == (3, 1)
    assert quadrature.cells is None


@given(hnp.arrays(np.int64, st.tuples(st.integers(1, 5), st.integers(1, 3)), elements=st.integers(-100, 100)))
def test_lists_integers_strides_and_read_only_arrays_are_all_the_same(array):
    expected = array.astype(np.float64)
    strided = np.repeat(np.repeat(expected, 2, axis=0), 3, axis=1)[::2, ::3]
    frozen = expected.copy()
    frozen.setflags(write=False)
    for form in (
        array,
        array.tolist(),
        strided,
        np.asfortranarray(expected),
        frozen,
        array.astype(np.float16),
        array.astype(np.float32),
    ):
        result = as_finite("points", form, 2)
        assert np.array_equal(result, expected)
        assert result.dtype == (np.float32 if getattr(form, "dtype", None) == np.float32 else np.float64)
        assert result.flags.c_contiguous and not result.flags.writeable


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_quadrature_reads_what_it_was_given_without_a_copy_and_cannot_change_it(dtype):
    points, weights = POINTS.astype(dtype), WEIGHTS.copy()
    quadrature = Quadrature(points, weights, DATA)
    assert np.shares_memory(quadrature.points, points) and points.flags.writeable and weights.flags.writeable
    for array in (quadrature.points, quadrature.weights, quadrature.data):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1.0


def test_weights_of_samples_sum_to_one_and_do_not_depend_on_their_scale():
    plain = Quadrature.samples(POINTS, DATA)
    assert plain.weights == pytest.approx([1 / 3] * 3)
    for scale in (1.0, 1e-200, 1e200):
        weights = Quadrature.samples(POINTS, DATA, scale * WEIGHTS).weights
        assert weights == pytest.approx(WEIGHTS / 6.0, rel=1e-15)


@pytest.mark.parametrize("size", [1e-320, 5e-324, 1e308])
def test_tiny_and_huge_weights_sum_to_one(size):
    assert Quadrature.samples(POINTS, DATA, np.full(3, size)).weights == pytest.approx([1 / 3] * 3, rel=1e-15)


@given(st.lists(st.booleans(), min_size=3, max_size=3).filter(any))
def test_a_subset_keeps_the_sum_of_the_weights_and_the_rows_together(chosen):
    quadrature = Quadrature(POINTS, WEIGHTS, DATA, [5, 0, 5])
    mask = np.array(chosen)
    part, same = quadrature.subset(mask), quadrature.subset(np.flatnonzero(mask))
    assert part.hash == same.hash
    assert np.sum(part.weights) == pytest.approx(6.0, rel=1e-15)
    assert part.weights / WEIGHTS[mask] == pytest.approx(part.weights[0] / WEIGHTS[mask][0])
    assert np.array_equal(part.points, POINTS[mask]) and np.array_equal(part.data[:, 0], DATA[mask])
    assert np.array_equal(part.cells, np.array([5, 0, 5])[mask])


def test_an_empty_subset_is_refused():
    with pytest.raises(ValueError, match="^points: got none"):
        Quadrature(POINTS, WEIGHTS).subset([])


def test_the_hash_tells_contents_and_nothing_else_apart():
    given_once = Quadrature(POINTS, WEIGHTS, DATA, [0, 1, 2])
    assert given_once.hash == Quadrature(np.asfortranarray(POINTS), WEIGHTS.tolist(), DATA[:, None]).hash
    others = [
        Quadrature(POINTS + 1e-12, WEIGHTS, DATA),
        Quadrature(POINTS, WEIGHTS * 2, DATA),
        Quadrature(POINTS, WEIGHTS, -DATA),
        Quadrature(POINTS, WEIGHTS, DATA, [0, 1, 1]),
        Quadrature(POINTS, WEIGHTS),
        Quadrature(POINTS[::-1], WEIGHTS, DATA),
        Quadrature(POINTS[:, :1], WEIGHTS, DATA),
    ]
    assert len({given_once.hash, *(q.hash for q in others)}) == 1 + len(others)


def test_the_hash_of_samples_is_what_it_always_was():
    # Archives know data sets by it.
    assert Quadrature(POINTS, WEIGHTS, DATA, [0, 1, 1]).hash.startswith("ece81e4d08b12982")
    assert Quadrature(POINTS, 0.5).hash.startswith("fc5317d181707593")
    assert Quadrature(POINTS.astype(np.float32), WEIGHTS).hash.startswith("ef04ca83045e5c95")


# ---- meshes of boxes

markings = st.lists(st.lists(st.floats(0.0, 1.0, exclude_max=True), min_size=1, max_size=4), max_size=6)


def bisected(mesh, rounds):
    """Return a mesh after several rounds; a mark is a number in [0, 1), whatever the number of cells is by then."""
    for marks in rounds:
        mesh = mesh.refined([int(mark * mesh.cell_count) for mark in marks])
    return mesh


def sides(mesh):
    return (mesh.upper - mesh.lower)[:, mesh.axes] / mesh.size[mesh.axes]


@given(markings, st.integers(1, 3), st.integers(1, 5), st.data())
def test_gauss_is_exact_for_polynomials_on_any_mesh(rounds, d, n, data):
    low, high = np.array([-1.0, 0.5, 2.0])[:d], np.array([1.0, 0.75, 5.0])[:d]
    quadrature = bisected(BoxMesh.uniform(low, high, 2, points=n), rounds).quadrature()
    powers = np.array(data.draw(st.lists(st.integers(0, 2 * n - 1), min_size=d, max_size=d)))
    exact = np.prod((high ** (powers + 1) - low ** (powers + 1)) / (powers + 1) / (high - low))
    values = np.prod(quadrature.points**powers, axis=1)
    assert quadrature.weights @ values == pytest.approx(exact, rel=1e-12, abs=1e-12)
    assert quadrature.total == pytest.approx(1.0, abs=1e-13)
    assert quadrature.data.shape == (len(quadrature), 0)


def test_gauss_is_not_exact_for_the_next_degree():
    for n in (1, 2, 5):
        quadrature = BoxMesh.uniform(-1.0, 1.0, 1, points=n).quadrature()
        assert abs(quadrature.weights @ quadrature.points[:, 0] ** (2 * n) - 1 / (2 * n + 1)) > 1e-4


def test_the_order_of_gauss_on_uniform_meshes_is_twice_the_number_of_points():
    widths, errors = [], []
    for cells in (1, 2, 4, 8):
        quadrature = BoxMesh.uniform([0, 0], [1, 1], cells, points=2).quadrature()
        widths.append(1 / cells)
        errors.append(abs(quadrature.weights @ np.exp(quadrature.points.sum(axis=1)) - (np.e - 1) ** 2))
    assert convergence_order(widths, errors) == pytest.approx(4.0, abs=0.1)


@given(markings, st.integers(1, 3), st.integers(1, 3))
def test_refinement_fills_the_same_box_with_cells_that_are_nearly_cubes(rounds, d, cells):
    low, high = np.array([0.0, -3.0, 1e6])[:d], np.array([0.1, 7.0, 1e6 + 1])[:d]
    coarse = BoxMesh.uniform(low, high, cells)
    mesh = bisected(coarse, rounds)
    assert np.array_equal(mesh.lower.min(axis=0), low) and np.array_equal(mesh.upper.max(axis=0), high)
    assert np.prod(sides(mesh), axis=1).sum() == pytest.approx(1.0, rel=1e-9)
    assert (sides(mesh).max(axis=1) <= 2.00001 * sides(mesh).min(axis=1)).all()
    # Of every cell the points lie inside, and their weights are its volume.
    quadrature = mesh.quadrature()
    assert (quadrature.points > mesh.lower[quadrature.cells]).all()
    assert (quadrature.points < mesh.upper[quadrature.cells]).all()
    shares = np.bincount(quadrature.cells, quadrature.weights)
    assert shares == pytest.approx(np.prod(sides(mesh), axis=1), rel=1e-8)
    assert quadrature.cell_count == mesh.cell_count == len(shares)


@given(markings)
def test_a_marked_cell_is_halved_across_its_longest_side_and_its_halves_take_its_place(rounds):
    mesh = bisected(BoxMesh.uniform([0, 0], [1, 2], (1, 2)), rounds)
    marked = np.arange(0, mesh.cell_count, 3)
    fine = mesh.refined(marked)
    assert fine.cell_count == mesh.cell_count + len(marked)
    number = 0
    for cell in range(mesh.cell_count):
        low, high = mesh.lower[cell], mesh.upper[cell]
        if cell not in marked:
            assert np.array_equal(fine.lower[number], low) and np.array_equal(fine.upper[number], high)
            number += 1
            continue
        axis = int(np.argmax(sides(mesh)[cell]))
        middle = np.where(np.arange(2) == axis, (low + high) / 2, high)
        assert np.array_equal(fine.lower[number], low) and np.array_equal(fine.upper[number], middle)
        middle = np.where(np.arange(2) == axis, (low + high) / 2, low)
        assert np.array_equal(fine.lower[number + 1], middle) and np.array_equal(fine.upper[number + 1], high)
        number += 2


def test_marks_count_once_in_any_order():
    mesh = BoxMesh.uniform([0, 0], [1, 1], 3)
    for marked in ([7, 2, 2, 7], np.array([2, 7], dtype=np.uint8), (7, 2)):
        assert np.array_equal(mesh.refined(marked).lower, mesh.refined([2, 7]).lower)
    for marked in ([], np.array([], dtype=np.int64)):
        assert mesh.refined(marked) is mesh


def test_equal_sides_are_a_tie_whatever_rounding_says():
    # Thirds of a box whose sides are not numbers of the machine: rounding makes some longer by a bit.
    mesh = BoxMesh.uniform([0.1, 0.2], [0.7, 1.9], 3)
    fine = mesh.refined(np.arange(9))
    assert np.array_equal(np.unique(fine.lower[:, 1]), np.unique(mesh.lower[:, 1]))
    assert len(np.unique(fine.lower[:, 0])) == 6


@given(markings, st.integers(1, 3), st.integers(1, 4))
def test_finer_cuts_every_cell_along_every_axis(rounds, d, n):
    mesh = bisected(BoxMesh.uniform([0.0] * d, [1.0, 2.0, 3.0][:d], 1, n), rounds)
    fine = mesh.finer()
    parent = np.repeat(np.arange(mesh.cell_count), 2**d)
    assert np.array_equal(fine.upper - fine.lower, (mesh.upper - mesh.lower)[parent] / 2)
    assert (fine.lower >= mesh.lower[parent]).all() and (fine.upper <= mesh.upper[parent]).all()
    assert len(np.unique(fine.lower, axis=0)) == fine.cell_count
    for axis in range(d):
        assert not np.isin(fine.quadrature().points[:, axis], mesh.quadrature().points[:, axis]).all()


def test_an_axis_without_extent_gets_one_point_and_is_never_bisected():
    mesh = BoxMesh.uniform([0, 3, -1], [1, 3, 1], (2, 5, 1), points=3)
    assert (mesh.cell_count, len(mesh.quadrature())) == (2, 2 * 9)
    for face in (mesh, mesh.refined([0, 1]).refined([0]), mesh.finer()):
        quadrature = face.quadrature()
        assert (quadrature.points[:, 1] == 3).all() and quadrature.total == pytest.approx(1.0)
        # Exact along the face: the mean of x^5 z^4.
        values = quadrature.points[:, 0] ** 5 * quadrature.points[:, 2] ** 4
        assert quadrature.weights @ values == pytest.approx(1 / 30)
    assert mesh.finer().cell_count == 8


def test_two_parallel_faces_may_be_one_mesh():
    mesh = BoxMesh([[0, 0], [1, 0]], [[0, 1], [1, 1]]).refined([1])
    assert mesh.lower.tolist() == [[0, 0], [1, 0], [1, 0.5]]
    assert mesh.quadrature().weights @ mesh.quadrature().points[:, 0] == pytest.approx(0.5)


def test_a_box_without_extent_is_one_point_that_stays():
    for mesh in (BoxMesh.uniform([1, 2], [1, 2], 4), SobolPoints([1, 2], [1, 2], 8)):
        quadrature = mesh.quadrature()
        assert quadrature.points.tolist() == [[1.0, 2.0]] and quadrature.weights.tolist() == [1.0]
        assert mesh.refined([0]) is mesh and mesh.finer() is mesh


def test_numbers_are_boxes_in_one_dimension():
    assert BoxMesh.uniform(0, 1, 2).upper.tolist() == [[0.5], [1.0]]
    assert BoxMesh([0.0, 0.5], [0.5, 1.0], 1).quadrature().points.tolist() == [[0.25], [0.75]]
    assert SobolPoints(0, 1, 2).quadrature().inputs == 1


def test_a_mesh_does_not_follow_later_changes():
    lower, upper = np.array([[0.0]]), np.array([[1.0]])
    mesh = BoxMesh(lower, upper)
    upper[0] = 2.0
    assert mesh.upper.tolist() == [[1.0]] and not mesh.upper.flags.writeable


BAD_MESHES = {
    "an inverted cell": (
        lambda: BoxMesh([[0, 0], [1, 3]], [[1, 1], [2, 2]]),
        "lower",
        "cell 1 from [1. 3.] to [2. 2.]",
    ),
    "NaN in a corner": (lambda: BoxMesh([[0, np.nan]], [[1, 1]]), "lower", "NaN"),
    "infinity in a corner": (lambda: BoxMesh([[0, 0]], [[1, np.inf]]), "upper", "infinity"),
    "corners of different shapes": (lambda: BoxMesh([[0, 0]], [[1, 1], [2, 2]]), "upper", "(2, 2), expected (1, 2)"),
    "no cells": (lambda: BoxMesh(np.empty((0, 2)), np.empty((0, 2))), "upper", "(0, 2)"),
    "no axes": (lambda: BoxMesh(np.empty((2, 0)), np.empty((2, 0))), "upper", "(2, 0)"),
    "a flat cell among others": (
        lambda: BoxMesh([[0, 0], [1, 0]], [[1, 1], [2, 0]]),
        "upper",
        "cell 1 without extent along axis 1",
    ),
    "a mesh that overflows": (lambda: BoxMesh([[-1.7e308]], [[1.7e308]]), "upper", "box from"),
    "no points": (lambda: BoxMesh([[0]], [[1]], points=0), "points", "0"),
    "too many points": (lambda: BoxMesh([[0]], [[1]], points=101), "points", "101"),
    "half a point": (lambda: BoxMesh([[0]], [[1]], points=1.5), "points", "1.5"),
    "points that are a truth": (lambda: BoxMesh([[0]], [[1]], points=True), "points", "True"),
    "points that are None": (lambda: BoxMesh.uniform(0, 1, 1, points=None), "points", "None"),
    "no cells per axis": (lambda: BoxMesh.uniform([0, 0], [1, 1], 0), "cells", "0"),
    "a negative number of cells": (lambda: BoxMesh.uniform([0, 0], [1, 1], (2, -1)), "cells", "-1"),
    "a fraction of a cell": (lambda: BoxMesh.uniform(0, 1, 2.0), "cells", "2.0"),
    "cells for three axes": (lambda: BoxMesh.uniform([0, 0], [1, 1], (1, 1, 1)), "cells", "3 numbers"),
    "no cells for any axis": (lambda: BoxMesh.uniform([0, 0], [1, 1], ()), "cells", "0 numbers"),
    "an inverted box": (lambda: BoxMesh.uniform([0, 2], [1, 1], 2), "low", "2.0 along axis 1"),
    "a box of two dimensions": (lambda: BoxMesh.uniform([0, 0], [1], 2), "high", "(1,), expected (2,)"),
    "a box of no dimension": (lambda: BoxMesh.uniform([], [], 2), "high", "(0,)"),
    "a corner that is NaN": (lambda: BoxMesh.uniform(0, np.nan, 2), "high", "NaN"),
    "a box that overflows": (lambda: SobolPoints(-1.7e308, 1.7e308, 2), "high", "box from"),
    "an inverted box of points": (lambda: SobolPoints([1], [0], 2), "low", "1.0 along axis 0"),
    "three points": (lambda: SobolPoints(0, 1, 3), "count", "3"),
    "zero points": (lambda: SobolPoints(0, 1, 0), "count", "0"),
    "minus two points": (lambda: SobolPoints(0, 1, -2), "count", "-2"),
    "points that are a fraction": (lambda: SobolPoints(0, 1, 4.0), "count", "4.0"),
    "more points than there are": (lambda: SobolPoints(0, 1, 2**31), "count", str(2**31)),
    "a negative seed": (lambda: SobolPoints(0, 1, 2, seed=-1), "seed", "-1"),
    "no seed": (lambda: SobolPoints(0, 1, 2, seed=None), "seed", "None"),
    "a mark that is too large": (lambda: BoxMesh.uniform(0, 1, 3).refined([0, 3]), "marked", "cell 3, expected 0 to 2"),
    "a mark from the end": (lambda: BoxMesh.uniform(0, 1, 3).refined([-1]), "marked", "cell -1"),
    "a mask": (lambda: BoxMesh.uniform(0, 1, 3).refined([True, False, True]), "marked", "bool"),
    "one mark": (lambda: BoxMesh.uniform(0, 1, 3).refined(1), "marked", "()"),
    "marks that are fractions": (lambda: BoxMesh.uniform(0, 1, 3).refined([1.0]), "marked", "float64"),
    "a second cell of a sequence": (lambda: SobolPoints(0, 1, 2).refined([1]), "marked", "cell 1"),
    "a cell without a middle": (lambda: BoxMesh([[1.0]], [[1.0 + 2e-16]]).refined([0]), "marked", "along axis 0"),
    "a mesh of another kind": (lambda: mesh_from_attributes({"kind": "triangles"}, {}), "mesh", "'triangles'"),
}


@pytest.mark.parametrize("case", BAD_MESHES)
def test_bad_meshes_are_refused_by_name_with_what_was_got_and_what_is_expected(case):
    make, name, got = BAD_MESHES[case]
    with pytest.raises(ValueError, match=rf"^{name}: got.*expected") as error:
        make()
    assert got in str(error.value)


# ---- Sobol' points


@given(st.integers(0, 2**63 - 1), st.integers(0, 7), st.integers(1, 6))
def test_more_points_of_a_sequence_begin_with_the_present_ones(seed, log, d):
    low, high = -np.arange(1.0, d + 1), np.arange(1.0, d + 1)
    points = SobolPoints(low, high, 2**log, seed)
    quadrature, more = points.quadrature(), points.refined((0,)).quadrature()
    assert (len(quadrature), len(more)) == (2**log, 2 ** (log + 1))
    assert np.array_equal(more.points[: 2**log], quadrature.points)
    assert quadrature.total == 1.0 and not quadrature.cells.any() and quadrature.cell_count == 1
    assert (quadrature.points >= low).all() and (quadrature.points <= high).all()
    assert points.refined([]) is points


def test_a_sequence_is_balanced_along_every_axis():
    points = SobolPoints([0, 5, 0], [1, 5, 1], 64).quadrature().points
    for axis in (0, 2):
        assert np.array_equal(np.sort(np.floor(64 * points[:, axis])), np.arange(64))
    assert (points[:, 1] == 5).all()


def test_points_of_another_seed_or_generation_are_others():
    sequences = [SobolPoints([0, 0], [1, 1], 8, seed) for seed in (0, 1)]
    sequences += [sequences[0].finer(), sequences[1].finer(), sequences[0].finer().finer(), sequences[0].refined([0])]
    assert len({sequence.quadrature().hash for sequence in sequences}) == len(sequences)
    present, finer = sequences[0].quadrature().points, sequences[0].finer().quadrature().points
    assert len(finer) == 32 and not np.isin(finer, present).any()
    assert np.array_equal(sequences[0].finer().quadrature().points, finer)


def test_the_error_of_a_sequence_falls_faster_than_that_of_random_points():
    def error(count):
        found = []
        for seed in range(8):
            quadrature = SobolPoints([0, 0, 0], [1, 1, 1], count, seed).quadrature()
            found.append(quadrature.weights @ np.exp(quadrature.points.sum(axis=1)) - (np.e - 1) ** 3)
        return np.sqrt(np.mean(np.square(found)))

    counts = 2 ** np.arange(4, 13, 2)
    orders = convergence_order(1.0 / counts, [error(int(count)) for count in counts])
    assert orders.min() > 0.8 and orders.mean() > 1.2


# ---- quadratures with meshes and regions


def square(cells=2, **changes):
    """Return the unit square with three faces and a set of measurements."""
    regions = {
        "left": BoxMesh.uniform([0, 0], [0, 1], cells, 3).quadrature(),
        "below": BoxMesh.uniform([0, 0], [1, 0], cells, 3).quadrature(),
        "anywhere": SobolPoints([0, 0], [1, 1], 4).quadrature(),
        "measured": Quadrature(POINTS, WEIGHTS, DATA),
    }
    mesh = BoxMesh.uniform([0, 0], [1, 1], cells, 3)
    rule = mesh.quadrature()
    return Quadrature(**{**vars(rule), "cells": rule.cells, "mesh": mesh, "regions": regions, **changes})


def test_length_points_and_cells_are_those_of_the_interior():
    quadrature = square()
    assert len(quadrature) == 4 * 9 and quadrature.cell_count == 4 and quadrature.total == pytest.approx(1.0)
    assert quadrature.nbytes == quadrature.points.nbytes
    assert [region.cell_count for region in quadrature.regions.values()] == [2, 2, 1, 3]
    assert list(quadrature.regions) == ["left", "below", "anywhere", "measured"]
    assert Quadrature(POINTS, WEIGHTS, cells=[4, 0, 0]).cell_count == 5


def test_regions_are_frozen():
    given_regions = {"left": Quadrature(POINTS, WEIGHTS)}
    quadrature = Quadrature(POINTS, WEIGHTS, regions=given_regions)
    given_regions["right"] = given_regions["left"]
    assert list(quadrature.regions) == ["left"]
    with pytest.raises(TypeError):
        quadrature.regions["right"] = quadrature
    assert dict(Quadrature(POINTS, WEIGHTS).regions) == {}


def test_marked_cells_are_counted_through_the_interior_and_the_regions():
    quadrature = square()
    fine = refine_quadrature(quadrature, [8, 1, 5, 4, 1])
    assert np.array_equal(fine.mesh.lower, quadrature.mesh.refined([1]).lower)
    assert np.array_equal(fine.points, fine.mesh.quadrature().points)
    assert fine.regions["left"].cell_count == 4
    assert fine.regions["below"] is quadrature.regions["below"]
    assert len(fine.regions["anywhere"]) == 8 and fine.regions["measured"] is quadrature.regions["measured"]
    assert list(fine.regions) == list(quadrature.regions)
    assert fine.hash == Quadrature(**interior(fine.mesh), mesh=fine.mesh, regions=fine.regions).hash
    only = quadrature.refined([7])
    assert np.array_equal(only.points, quadrature.points) and only.mesh is quadrature.mesh
    assert only.regions["below"].mesh.upper.tolist() == [[0.5, 0], [0.75, 0], [1, 0]]
    assert quadrature.refined([]) is quadrature


def interior(mesh):
    rule = mesh.quadrature()
    return {"points": rule.points, "weights": rule.weights, "cells": rule.cells, "data": rule.data}


def test_finer_refines_all_parts_that_have_a_mesh():
    quadrature = square()
    fine = quadrature.finer()
    assert [part.cell_count for part in (fine, *fine.regions.values())] == [16, 4, 4, 1, 3]
    assert len(fine.regions["anywhere"]) == 16 and fine.regions["measured"] is quadrature.regions["measured"]
    given_points = Quadrature(POINTS, WEIGHTS, regions=dict(quadrature.regions))
    assert np.array_equal(given_points.finer().points, POINTS) and given_points.finer().regions["left"].cell_count == 4


def test_weights_that_were_scaled_keep_their_sum():
    for mesh in (BoxMesh.uniform([0, 0], [2, 3], 2), SobolPoints([0, 0], [2, 3], 8)):
        rule = mesh.quadrature()
        area = Quadrature(rule.points, 6 * rule.weights, cells=rule.cells, mesh=mesh)
        for fine in (area.refined([0]), area.finer()):
            assert fine.total == pytest.approx(6.0) and fine.weights @ fine.points[:, 0] == pytest.approx(6.0, rel=0.1)
    assert area.finer().weights.strides == (0,)


BAD_PARTS = {
    "a name with a slash": (lambda: square(regions={"a/b": Quadrature(POINTS, 1.0)}), "regions", "'a/b'"),
    "an empty name": (lambda: square(regions={"": Quadrature(POINTS, 1.0)}), "regions", "''"),
    "a number for a name": (lambda: square(regions={1: Quadrature(POINTS, 1.0)}), "regions", "1"),
    "a list of regions": (lambda: square(regions=[Quadrature(POINTS, 1.0)]), "regions", "list"),
    "a mesh as a region": (lambda: square(regions={"a": BoxMesh.uniform(0, 1, 1)}), "regions", "BoxMesh for 'a'"),
    "a region in one dimension": (
        lambda: square(regions={"a": Quadrature([[1.0]], 1.0)}),
        "regions",
        "1 inputs in 'a'",
    ),
    "regions inside of regions": (lambda: square(regions={"a": square()}), "regions", "inside of 'a'"),
    "cells that the mesh does not have": (lambda: square(mesh=BoxMesh([[0, 0]], [[1, 1]])), "cells", "cell 3"),
    "cells that are not said": (
        lambda: Quadrature(POINTS, 1.0, mesh=BoxMesh.uniform([0, 0], [1, 1], 2)),
        "cells",
        "none, expected 0 to 3",
    ),
    "a mark beyond the regions": (lambda: square().refined([12]), "marked", "cell 12, expected 0 to 11"),
    "a negative mark": (lambda: square().refined([-1]), "marked", "cell -1"),
    "a mark in a region of samples": (
        lambda: square().refined([0, 10]),
        "marked",
        "cell 10, cell 1 of region 'measured'",
    ),
    "a mark among samples": (lambda: Quadrature(POINTS, 1.0).refined([2]), "marked", "cell 2 of the interior"),
    "samples between samples": (lambda: Quadrature(POINTS, 1.0).finer(), "mesh", "None"),
    "data at the points of a mesh": (lambda: square(data=np.ones(36)).refined([0]), "data", "1 columns"),
    "data between the points of a mesh": (lambda: square(data=np.ones(36)).finer(), "data", "1 columns"),
}


@pytest.mark.parametrize("case", BAD_PARTS)
def test_bad_parts_are_refused_by_name_with_what_was_got_and_what_is_expected(case):
    make, name, got = BAD_PARTS[case]
    with pytest.raises(ValueError, match=rf"^{name}: got.*expected") as error:
        make()
    assert got in str(error.value)


def test_a_subset_of_the_points_has_no_mesh():
    part = square().subset([0, 3, 35])
    assert part.mesh is None and part.cells.tolist() == [0, 0, 3] and list(part.regions) == list(square().regions)
    with pytest.raises(ValueError, match="^marked: got cell 0, cell 0 of the interior"):
        part.refined([0])


def test_the_hash_tells_meshes_and_regions_apart():
    quadrature = square()
    names = list(quadrature.regions)
    assert quadrature.hash == square().hash
    moved = SimpleNamespace(**{n: getattr(quadrature.mesh, n) for n in ("cell_count", "attributes")})
    moved.arrays = lambda: {"lower": quadrature.mesh.lower + 1e-12, "upper": quadrature.mesh.upper}
    others = [
        square(mesh=None),
        square(regions={}),
        square(mesh=None, regions={}),
        square(mesh=BoxMesh(quadrature.mesh.lower, quadrature.mesh.upper, 4)),
        square(mesh=moved),
        square(regions={name: quadrature.regions[name] for name in names[::-1]}),
        square(regions={name.upper(): quadrature.regions[name] for name in names}),
        square(regions={name: quadrature.regions[name] for name in names[1:]}),
        square(regions={**quadrature.regions, "left": quadrature.regions["below"]}),
        quadrature.finer(),
        *(quadrature.refined([cell]) for cell in range(9)),
    ]
    assert len({quadrature.hash, *(q.hash for q in others)}) == 1 + len(others)
    rule = quadrature.mesh.quadrature()
    assert square(mesh=None, regions={}).hash == Quadrature(rule.points, rule.weights, cells=rule.cells).hash


@pytest.mark.parametrize("copied", [lambda q: pickle.loads(pickle.dumps(q)), copy.copy, copy.deepcopy])
def test_quadratures_are_pickled_and_copied(copied):
    for quadrature in (square(), Quadrature(POINTS, 0.5, DATA), SobolPoints([0, 0], [1, 1], 4).quadrature()):
        same = copied(quadrature)
        assert same.hash == quadrature.hash and same.weights.strides == quadrature.weights.strides
        assert list(same.regions) == list(quadrature.regions) and not same.points.flags.writeable
        if quadrature.mesh is not None:
            assert same.refined([0]).hash == quadrature.refined([0]).hash
            assert not any(array.flags.writeable for array in same.mesh.arrays().values())


def test_meshes_are_rebuilt_from_attributes_and_arrays():
    for mesh in (
        BoxMesh.uniform([0, 0], [1, 1], 2, 3).refined([1]),
        SobolPoints([0, 1], [1, 1], 4, seed=2**63 - 1).finer(),
    ):
        again = mesh_from_attributes(mesh.attributes(), mesh.arrays())
        assert type(again) is type(mesh) and again.quadrature().hash == mesh.quadrature().hash


def test_a_loop_of_refinement_finds_a_peak():
    def peak(p):
        return np.exp(-1e4 * ((p[:, 0] - 0.31) ** 2 + (p[:, 1] - 0.62) ** 2))

    quadrature = BoxMesh.uniform([0, 0], [1, 1], 4, points=3).quadrature()
    for _ in range(20):
        values = np.bincount(quadrature.cells, quadrature.weights * peak(quadrature.points))
        fine = quadrature.finer()
        children = np.bincount(fine.cells, fine.weights * peak(fine.points)).reshape(-1, 4).sum(axis=1)
        indicators = np.abs(values - children)
        quadrature = refine_quadrature(quadrature, np.flatnonzero(indicators >= 0.3 * indicators.max()))
    assert quadrature.cell_count < 100
    assert quadrature.weights @ peak(quadrature.points) == pytest.approx(np.pi / 1e4, rel=1e-4)
    uniform = BoxMesh.uniform([0, 0], [1, 1], 10, points=3).quadrature()
    assert uniform.weights @ peak(uniform.points) != pytest.approx(np.pi / 1e4, rel=0.1)


SIDES = UnionMesh(
    (
        BoxMesh.uniform([0, 0], [0, 2], 4, 3),
        BoxMesh.uniform([1, 0], [1, 2], 2, 3),
        BoxMesh.uniform([0, 2], [1, 2], 3, 3),
    )
)


def test_a_union_has_the_cells_of_its_parts_one_after_another_and_equal_shares():
    rule = SIDES.quadrature()
    parts = [part.quadrature() for part in SIDES.parts]
    assert np.array_equal(rule.points, np.concatenate([part.points for part in parts]))
    assert rule.cell_count == 9 and rule.total == pytest.approx(1.0, rel=1e-15)
    means = [np.sum(part.weights * part.points[:, 1] ** 5) for part in parts]
    assert np.sum(rule.weights * rule.points[:, 1] ** 5) == pytest.approx(np.mean(means), rel=1e-14)


@given(st.sets(st.integers(0, 8)))
def test_cells_of_a_union_are_refined_where_they_belong(marked):
    refined = SIDES.quadrature().refined(sorted(marked))
    assert refined.cell_count == 9 + len(marked) and refined.total == pytest.approx(1.0, rel=1e-14)
    fixed = np.concatenate([np.concatenate([part.lower, part.upper], axis=1) for part in SIDES.parts])
    found = np.concatenate([np.concatenate([part.lower, part.upper], axis=1) for part in refined.mesh.parts])
    gone = [k for k, cell in enumerate(fixed) if not (found == cell).all(axis=1).any()]
    assert gone == sorted(marked)


def test_a_union_is_rebuilt_from_attributes_and_arrays_and_can_be_pickled():
    rule = SIDES.quadrature()
    again = mesh_from_attributes(SIDES.attributes(), SIDES.arrays())
    for other in (again.quadrature(), pickle.loads(pickle.dumps(rule))):
        assert other.hash == rule.hash and other.refined([4]).hash == rule.refined([4]).hash


def test_a_union_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match=r"^parts: got none, expected"):
        UnionMesh(())
    with pytest.raises(ValueError, match=r"^marked: got.*9.*expected"):
        SIDES.refined([9])
    with pytest.raises(ValueError, match=r"^parts: got meshes whose cells have.*expected equally many"):
        UnionMesh((SIDES.parts[0], BoxMesh.uniform([0, 0], [1, 1], 2))).finer()
