"""Public names that are imported when they are first used (PEP 562)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def attach(package: str, public: Mapping[str, tuple[str, ...]]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package.

    Parameters
    ----------
    package : str
        ``__name__`` of the package.
    public : mapping of str to tuple of str
        The public names of each submodule; the submodules themselves can be reached too.
    """
    owner = {name: module for module, names in public.items() for name in names}

    def __getattr__(name: str) -> Any:
        if name in owner:
            module = importlib.import_module(f"{package}.{owner[name]}")
            # One of them may be called like the module itself: it has to be there before anybody asks for it.
            for each in {name, owner[name]}.intersection(public[owner[name]]):
                setattr(sys.modules[package], each, getattr(module, each))
            return getattr(module, name)
        if name in public:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[package]), *owner, *public})

    return __getattr__, __dir__
