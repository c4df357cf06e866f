"""Quadratures: what is refused, what simply works, and what a subset and a hash mean."""

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

from dnnfem.quadrature import Quadrature, as_finite

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
