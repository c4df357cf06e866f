"""What an activation does to a jet, and its derivatives, as straight-line code.

Everything that the sweeps need where components meet is a polynomial in ``S_k = h sigma^(k)(z)`` and the components of
z, of a direction and of a cotangent: with ``y_c = sum S_k prod z_f`` from Faà di Bruno's formula,

    tangent     y'_c = D y_c,                D S_k = S_{k+1} z'_0,  D z_f = z'_f,
    adjoint     zeta_f = sum_c lambda_c dy_c/dz_f,
    bend        q_f = D zeta_f,

where the derivative in ``z_0``, the value, turns ``S_k`` into ``S_{k+1}``.  The polynomials are written by Horner's
rule in many variables, as operations ``target += coefficient a b`` on names of numbers, and
`dnnfem.kernels.compiled.pointwise` makes machine code of them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from dnnfem.kernels.components import MOST, Component, terms

FORWARD, TANGENT, BEND, ADJOINT, SECOND = KINDS = range(5)
"""Numbers of the lists of operations.  `BEND` is the tangent, and replaces the direction by ``q``; `SECOND` is the
adjoint and a direction, which is ``q`` again, added to it."""

SIGMAS = MOST + 3
"""Numbers of derivatives of an activation: second derivatives of a jet take two more."""

Z, DIRECTION, DUAL, RESULT, TEMPORARY = range(5)
"""Groups of names: of one component after another, but the temporary ones."""

Polynomial = dict[tuple[int, ...], float]
"""Coefficients of monomials, sorted tuples of names."""


@dataclass(frozen=True)
class Operation:
    """``target = (0 if fresh else target) + coefficient a b``, without `b` if that is None."""

    target: int
    a: int
    b: int | None
    coefficient: float
    fresh: bool


def _derived(polynomial: Polynomial, rules: dict[int, tuple[int, ...]]) -> Polynomial:
    """Replace each factor in turn by a product of others."""
    result: Polynomial = defaultdict(float)
    for monomial, coefficient in polynomial.items():
        for n, factor in enumerate(monomial):
            if factor in rules:
                result[tuple(sorted((*monomial[:n], *rules[factor], *monomial[n + 1 :])))] += coefficient
    return dict(result)


class _Writer:
    """Turns polynomials into operations."""

    def __init__(self, free: int) -> None:
        self.operations: list[Operation] = []
        self.free = free
        self.known: dict[frozenset[tuple[tuple[int, ...], float]], int] = {}

    def _value(self, polynomial: Polynomial) -> tuple[int | None, float]:
        """Return a name and a factor that give the value of a polynomial; None stands for one."""
        if len(polynomial) == 1:
            monomial, coefficient = next(iter(polynomial.items()))
            if len(monomial) < 2:
                return (monomial[0] if monomial else None), coefficient
        scale = polynomial[min(polynomial)]
        key = frozenset((monomial, coefficient / scale) for monomial, coefficient in polynomial.items())
        if key not in self.known:
            name, self.free = self.free, self.free + 1
            self.write(name, dict(key))
            self.known[key] = name
        return self.known[key], scale

    def write(self, target: int, polynomial: Polynomial) -> None:
        """Set a number to a polynomial: what a factor has in common with most monomials is computed first."""
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
            self.operations.append(Operation(target, a, b, coefficient, n == 0))


@lru_cache(maxsize=64)
def operations(carried: tuple[Component, ...], kind: int, duals: frozenset[int]) -> tuple[Operation, ...]:
    """Write one list of operations for jets with the components `carried`, closed as by `components.closure`.

    Only the cotangents of the components with numbers `duals` differ from zero; what is zero then is not written.
    Names are numbers: ``SIGMAS`` derivatives of the activation, then one per component of each group but the last, then
    the temporary ones.
    """
    count = len(carried)
    number = {component: c for c, component in enumerate(carried)}

    def name(group: int, c: int) -> int:
        return SIGMAS + group * count + c

    def monomial(k: int, factors: Sequence[Component]) -> tuple[int, ...]:
        return tuple(sorted((k, *(name(Z, number[factor]) for factor in factors))))

    values: list[Polynomial] = [
        {monomial(k, factors): coefficient for (k, factors), coefficient in terms(component).items()}
        for component in carried
    ]
    along: dict[int, tuple[int, ...]] = {k: (k + 1, name(DIRECTION, 0)) for k in range(SIGMAS - 1)}
    along |= {name(Z, c): (name(DIRECTION, c),) for c in range(1, count)}
    adjoint: list[Polynomial] = []
    for f in range(count):
        by_f: dict[int, tuple[int, ...]] = {k: (k + 1,) for k in range(SIGMAS - 1)} if f == 0 else {name(Z, f): ()}
        total: Polynomial = defaultdict(float)
        for c in sorted(duals):
            for found, coefficient in _derived(values[c], by_f).items():
                total[tuple(sorted((*found, name(DUAL, c))))] += coefficient
        adjoint.append(dict(total))
    tangent = [_derived(value, along) for value in values]
    writer = _Writer(SIGMAS + TEMPORARY * count)
    if kind == SECOND:
        for f, zeta in enumerate(adjoint):
            if zeta:
                zeta[name(DIRECTION, f),] = 1.0
    for c, polynomial in enumerate((values, tangent, tangent, adjoint, adjoint)[kind]):
        writer.write(name(RESULT, c), polynomial)
    if kind == BEND:
        # The direction is overwritten when nobody reads it any more.
        begin, writer.free = writer.free, writer.free + count
        bends = {f: _derived(zeta, along) for f, zeta in enumerate(adjoint) if zeta}
        for f, bend in bends.items():
            writer.write(begin + f, bend)
        writer.operations += [Operation(name(DIRECTION, f), begin + f, None, 1.0, True) for f in bends]
    return tuple(writer.operations)


def live(carried: tuple[Component, ...], duals: frozenset[int]) -> frozenset[int]:
    """Return which cotangents of an argument an activation makes of those of its value: numbers of components."""
    number = {component: c for c, component in enumerate(carried)}
    found = {number[f] for c in duals for _, factors in terms(carried[c]) for f in factors}
    return frozenset(found | ({0} if duals else set()))
