"""One line in the log when kernels are compiled, which takes a while and happens once."""

from __future__ import annotations

import logging

from numba.core import event

KIND = "numba:compile"
"""Announced by numba when a function was not found among those compiled before."""

LOGGER = logging.getLogger("dnnfem")


class Notice(event.Listener):  # type: ignore[misc]
    """Says once that kernels of dnnfem are compiled."""

    def on_start(self, event_: event.Event) -> None:
        """Log a line if it is one of ours, and never again."""
        if event_.data["dispatcher"].py_func.__module__.startswith("dnnfem."):
            event.unregister(KIND, self)
            LOGGER.warning(
                "dnnfem compiles its kernels, which takes up to half a minute, once: they are kept on the disk "
                "(python -m dnnfem precompile does it beforehand)"
            )

    def on_end(self, event_: event.Event) -> None:
        """Do nothing."""


def announce() -> None:
    """Have the next compilation announced."""
    event.register(KIND, Notice())
