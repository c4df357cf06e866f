"""Kernels on the disk that are older than the sources.

numba keeps a compiled function as long as the file does not change in which that function is; what other files put into
it, it does not know.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

SOURCES = Path(__file__).parent
"""What is beside this folder counts too: numbers from there are compiled into the kernels."""


def discard(dispatcher: Any) -> int:
    """Remove the kernels in the folder where those of `dispatcher` are kept, if older than a source of the kernels.

    Returns
    -------
    int
        Number of kernels that were removed.
    """
    if not dispatcher.stats.cache_path:
        return 0
    files = [*SOURCES.glob("*.py"), *SOURCES.parent.glob("*.py")]
    newest = max(source.stat().st_mtime for source in files)
    names = {source.stem for source in SOURCES.glob("*.py")}
    removed = 0
    for index in Path(dispatcher.stats.cache_path).glob("*.nbi"):
        try:
            if index.name.split(".")[0] in names and index.stat().st_mtime < newest:
                index.unlink()
                removed += 1
        except OSError:
            # Another process was faster, or the folder may only be read: then numba writes a new one beside it.
            continue
    return removed
