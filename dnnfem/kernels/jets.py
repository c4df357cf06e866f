"""What an activation does to a jet, and its derivatives, as straight-line code over rows of numbers.

Everything that the sweeps need where components meet is a polynomial in ``S_k = h sigma^(k)(z)`` and the components of
z, of a direction and of a cotangent: with ``y_c = sum S_k prod z_f`` from Faà di Bruno's formula,

    tangent     y'_c = D y_c,                D S_k = S_{k+1} z'_0,  D z_f = z'_f,
    adjoint     zeta_f = sum_c lambda_c dy_c/dz_f,
    bend        q_f = D zeta_f,

where the derivative in ``z_0``, the value, turns ``S_k`` into ``S_{k+1}``.  The polynomials are written once, by
Horner's rule in many variables, as operations ``target += coefficient a b``; a few numbers of each row at a time go
through all operations while they stay in the first-level cache.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dnnfem.kernels.components import MOST, Component, closure, order, places, terms
from dnnfem.records import Array, Index

FORWARD, TANGENT, BEND, ADJOINT = range(4)
"""Numbers of the lists of operations; `BEND` is the tangent, and replaces the direction by ``q``."""

SIGMAS = MOST + 3
"""Numbers of derivatives of an activation: second derivatives of a jet take two more."""

Z, DIRECTION, DUAL, RESULT, TEMPORARY = range(5)
"""Groups of rows: of one component after another, but the temporary ones."""

CACHE = 3072
"""Numbers of all rows that are worked on at a time."""

Polynomial = dict[tuple[int, ...], float]
"""Coefficients of monomials, sorted tuples of rows."""


def _derived(polynomial: Polynomial, rules: dict[int, tuple[int, ...]]) -> Polynomial:
    """Replace each factor in turn by a product of others."""
    result: Polynomial = defaultdict(float)
    for monomial, coefficient in polynomial.items():
        for n, factor in enumerate(monomial):
            if factor in rules:
                result[tuple(sorted((*monomial[:n], *rules[factor], *monomial[n + 1 :])))] += coefficient
    return dict(result)


class _Writer:
    """Turns polynomials into operations (target, a, b or -1, whether to start from zero)."""

    def __init__(self, free: int) -> None:
        self.operations: list[tuple[int, int, int, int]] = []
        self.coefficients: list[float] = []
        self.free = free
        self.known: dict[frozenset[tuple[tuple[int, ...], float]], int] = {}

    def _value(self, polynomial: Polynomial) -> tuple[int, float]:
        """Return a row and a factor that give the value of a polynomial; -1 stands for one."""
        if len(polynomial) == 1:
            monomial, coefficient = next(iter(polynomial.items()))
            if len(monomial) < 2:
                return (monomial[0] if monomial else -1), coefficient
        scale = polynomial[min(polynomial)]
        key = frozenset((monomial, coefficient / scale) for monomial, coefficient in polynomial.items())
        if key not in self.known:
            row, self.free = self.free, self.free + 1
            self.write(row, dict(key))
            self.known[key] = row
        return self.known[key], scale

    def write(self, target: int, polynomial: Polynomial) -> None:
        """Set a row to a polynomial: what a factor has in common with most monomials is computed first."""
        parts, rest = [], dict(polynomial)
        while rest:
            count = Counter(factor for monomial in rest for factor in set(monomial))
            common = max(count, key=lambda factor: (count[factor], -factor))
            inner, outer = {}, {}
            for monomial, coefficient in rest.items():
                if common in monomial:
                    n = monomial.index(common)
                    inner[monomial[:n] + monomial[n + 1 :]] = coefficient
                else:
                    outer[monomial] = coefficient
            parts.append((common, *self._value(inner)))
            rest = outer
        for n, (a, b, coefficient) in enumerate(parts):
            self.operations.append((target, a, b, n == 0))
            self.coefficients.append(coefficient)


@dataclass(frozen=True, eq=False)
class Rules:
    """Operations on jets with certain components.

    Rows are numbered: ``SIGMAS`` derivatives of the activation, then `count` of each group but the last, then the
    temporary ones.

    Attributes
    ----------
    components : tuple
        All that are carried along.
    reads : int array
        Where those are that were asked for.
    order : int
        Highest order.
    operations : int array, shape (n, 4)
        Target, two factors, the second one possibly absent (-1), and whether the target is overwritten.
    coefficients : array, shape (n,)
    lists : int array, shape (4, 4)
        Per list its range among the operations, the highest derivative of the activation that it takes, and how many
        numbers of a row go through all operations at a time.
    rows : int
        Numbers of rows in all.
    strip : int
        The largest of these numbers.
    """

    components: tuple[Component, ...]
    reads: Index
    order: int
    operations: Index
    coefficients: Array
    lists: Index
    rows: int
    strip: int


@lru_cache(maxsize=32)
def rules(components: tuple[Component, ...], tile: int) -> Rules:
    """Write the operations for jets from which some components are asked for; `strip` divides or is one of `tile`."""
    carried = closure(components)
    highest, count = max(map(order, carried)), len(carried)
    number = {component: c for c, component in enumerate(carried)}

    def row(group: int, c: int) -> int:
        return SIGMAS + group * count + c

    def monomial(k: int, factors: Sequence[Component]) -> tuple[int, ...]:
        return tuple(sorted((k, *(row(Z, number[factor]) for factor in factors))))

    values: list[Polynomial] = [
        {monomial(k, factors): coefficient for (k, factors), coefficient in terms(component).items()}
        for component in carried
    ]
    along: dict[int, tuple[int, ...]] = {k: (k + 1, row(DIRECTION, 0)) for k in range(SIGMAS - 1)}
    along |= {row(Z, c): (row(DIRECTION, c),) for c in range(1, count)}
    adjoint: list[Polynomial] = []
    for f in range(count):
        by_f: dict[int, tuple[int, ...]] = {k: (k + 1,) for k in range(SIGMAS - 1)} if f == 0 else {row(Z, f): ()}
        total: Polynomial = defaultdict(float)
        for c, value in enumerate(values):
            for found, coefficient in _derived(value, by_f).items():
                total[tuple(sorted((*found, row(DUAL, c))))] += coefficient
        adjoint.append(dict(total))
    tangent = [_derived(value, along) for value in values]
    bend = [_derived(zeta, along) for zeta in adjoint]

    free = SIGMAS + TEMPORARY * count
    writers = [_Writer(free) for _ in range(4)]
    for kind, polynomials in ((FORWARD, values), (TANGENT, tangent), (BEND, tangent), (ADJOINT, adjoint)):
        for c, polynomial in enumerate(polynomials):
            writers[kind].write(row(RESULT, c), polynomial)
    # The direction is overwritten when nobody reads it any more.
    last, kept = writers[BEND], []
    for polynomial in bend:
        kept.append(last.free)
        last.free += 1
        last.write(kept[-1], polynomial)
    for f, source in enumerate(kept):
        last.operations.append((row(DIRECTION, f), source, -1, 1))
        last.coefficients.append(1.0)

    ends = np.cumsum([0, *(len(writer.operations) for writer in writers)])
    tops = [max(a for o in w.operations for a in (*o[1:3], 0) if a < SIGMAS) for w in writers]
    used = [len({a for operation in w.operations for a in operation[:3]}) for w in writers]
    strips = [tile * max(1, min(4, CACHE // (n * tile))) for n in used]
    return Rules(
        carried,
        np.array(places(components), dtype=np.int64),
        highest,
        np.array([operation for writer in writers for operation in writer.operations], dtype=np.int64),
        np.array([c for writer in writers for c in writer.coefficients], dtype=np.float64),
        np.column_stack([ends[:-1], ends[1:], tops, strips]).astype(np.int64),
        max(writer.free for writer in writers),
        max(strips),
    )
