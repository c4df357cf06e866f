"""Configuration of the manual."""

import importlib
import inspect
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import dnnfem  # noqa: E402

project = "dnnfem"
author = "the dnnfem authors"
copyright = "2026, the dnnfem authors"
version = release = dnnfem.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "numpydoc",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "dnnfem"
default_role = "code"
nitpicky = False

autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

# One page for every part of the library that exists.  A page lists what the part defines as public, whether or not
# `import dnnfem` offers it under a short name.
PARTS = [
    "records",
    "marking",
    "quadrature",
    "kernels",
    "spaces",
    "functionals",
    "norms",
    "problems",
    "refinement",
    "solvers",
    "estimators",
    "control",
    "archive",
    "observers",
    "testing",
    "plotting",
    "learn",
]


def public_names(module):
    """Return what ``__all__`` says, or else the functions and classes that the module itself defines."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    ]


def summary(module, item, value):
    """Return a link and the first paragraph of the docstring.

    The extension autosummary cuts at the first full stop, also in the middle of a formula.
    """
    text = (inspect.getdoc(value) or "") if callable(value) else ""
    first = re.sub(r"\s*\[\d+\]_", "", " ".join(text.partition("\n\n")[0].split()))
    return f":py:obj:`{item} <{module}.{item}>`: {first}".removesuffix(": ")


def page(part, seen):
    """Return the page of one part: what the module says, a table of its names, and the names themselves.

    What an earlier page describes (in `seen`) is left out: some parts hand on names of others.
    """
    name = f"dnnfem.{part}"
    module = importlib.import_module(name)
    entries = {item: getattr(module, item) for item in public_names(module)}
    entries = {item: value for item, value in entries.items() if id(value) not in seen}
    seen.update(id(value) for value in entries.values())
    lines = [part, "=" * len(part), "", f".. automodule:: {name}", "   :no-members:", ""]
    lines += [f"* {summary(name, item, value)}" for item, value in entries.items()]
    lines += ["", f".. currentmodule:: {name}", ""]
    for item, value in entries.items():
        if inspect.isclass(value):
            lines += [f".. autoclass:: {item}", "   :members:", ""]
        else:
            lines += [f".. {'autofunction' if callable(value) else 'autodata'}:: {item}", ""]
    return "\n".join(lines)


def write_pages(folder):
    """Write the pages of the parts, and touch only those that have changed."""
    folder.mkdir(exist_ok=True)
    seen = set()
    pages = {
        folder / f"{part}.rst": page(part, seen)
        for part in PARTS
        if (HERE.parent / "dnnfem" / part).is_dir() or (HERE.parent / "dnnfem" / f"{part}.py").exists()
    }
    for old in set(folder.glob("*.rst")) - set(pages):
        old.unlink()
    for path, text in pages.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def foreign(app, what, name, member, skip, options):
    """Leave out methods that other packages have put into classes of this one."""
    return skip or (inspect.isfunction(member) and not member.__module__.startswith("dnnfem."))


def setup(app):
    """Connect."""
    app.connect("autodoc-skip-member", foreign)


write_pages(HERE / "_api")
