"""Observers: what a solver shows while it runs.  Without one, solvers are silent."""

from __future__ import annotations

from collections.abc import Callable

from tqdm import tqdm

from dnnfem.records import Snapshot

Observer = Callable[[Snapshot], None]


def observe(*parts: Observer) -> Observer:
    """Return one observer that calls several, in the order given.

    Parameters
    ----------
    *parts : callable
        Observers, ``(snapshot) -> None``.

    Returns
    -------
    callable
        An observer, ``(snapshot) -> None``.

    Examples
    --------
    >>> values = []
    >>> J = fem.from_callables(1, residual=lambda x: x**2 - 2.0, jacobian=lambda x: np.diag(2.0 * x))
    >>> watch = fem.observe(lambda snapshot: values.append(snapshot.step.value), fem.progress(disable=True))
    >>> result = fem.gauss_newton(J, np.array([3.0]), 1e-8, observer=watch)
    >>> len(values) == len(result.steps), values[0]
    (True, 24.5)
    """

    def every(snapshot: Snapshot) -> None:
        for part in parts:
            part(snapshot)

    return every


def progress(description: str = "solve", disable: bool | None = None) -> Observer:
    """Return a progress bar that counts steps and shows value and algebraic estimate.

    Parameters
    ----------
    description : str
        Shown before the bar.
    disable : bool, optional
        True for silence; default: silent unless the output is a terminal.

    Returns
    -------
    callable
        An observer, ``(snapshot) -> None``.
    """
    bars: list[tqdm] = []

    def observe(snapshot: Snapshot) -> None:
        if not bars:
            bars.append(tqdm(desc=description, unit=" steps", disable=disable, leave=False))
        bar, step = bars[0], snapshot.step
        bar.set_postfix_str(f"J = {step.value:.3e}, algebraic {step.algebraic:.1e}", refresh=False)
        bar.update(step.number - bar.n)
        current = snapshot.state.progress
        if current is not None and current.status is not None:
            bar.close()
            bars.clear()

    return observe
