"""A few results of the recent past, for evaluators that are asked the same again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Generic, TypeVar

from dnnfem.records import Array

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Recent(Generic[T]):
    """The last `count` different results, by key.

    A solve begins where the one before has ended, and an estimator looks at the same point: what both need of it is
    computed once.
    """

    count: int
    _results: dict[bytes, T] = field(default_factory=dict, init=False, repr=False)
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    def __call__(self, key: bytes, compute: Callable[[], T]) -> T:
        """Return the result that belongs to `key`."""
        with self._lock:
            if key in self._results:
                return self._results[key]
        # Others need not wait: at worst two compute the same.
        result = compute()
        with self._lock:
            self._results[key] = result
            while len(self._results) > self.count:
                del self._results[next(iter(self._results))]
        return result


def frozen(array: Array) -> Array:
    """Return an array that several may hold: nobody can write to it any more."""
    array.flags.writeable = False
    return array
