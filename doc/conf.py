"""Configuration of the manual."""

import importlib
import inspect
import re
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools"), str(HERE)]

from check_docs import PARTS, documented, public_names  # noqa: E402
from docutils import nodes  # noqa: E402
from sphinx import addnodes  # noqa: E402

import dnnfem  # noqa: E402

project = "dnnfem"
author = "the dnnfem authors"
copyright = "2026, the dnnfem authors"
version = release = dnnfem.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "_demos", "gallery/sg_execution_times.rst", "sg_execution_times.rst"]
html_theme = "furo"
html_title = "dnnfem"
html_static_path = ["_static"]
html_css_files = ["manual.css"]
default_role = "name"
nitpicky = False

autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

# What is copied are inputs, without prompts and outputs.
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True


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
    first = {path.stem: inspect.getdoc(importlib.import_module(f"dnnfem.{path.stem}")) or "" for path in pages}
    titles = {name: " ".join(text.partition("\n\n")[0].split()) for name, text in first.items()}
    pages[folder / "parts.txt"] = "".join(f"* :doc:`_api/{name}`: {text}\n" for name, text in titles.items())
    for path, text in pages.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def foreign(app, what, name, member, skip, options):
    """Leave out methods that other packages have put into classes of this one."""
    return skip or (inspect.isfunction(member) and not member.__module__.startswith("dnnfem."))


write_pages(HERE / "_api")


# ---- names in single backticks


def places():
    """Return where every public name is described, by what users write: with its part, and without it."""
    found = {}
    for path, value in documented():
        _, part, name = path.split(".")
        keys = [name, f"{part}.{name}"]
        found |= {key: path for key in keys if key not in found}
        if inspect.isclass(value):
            found |= {
                f"{key}.{method}": f"{path}.{method}" for key in keys for method in vars(value) if method[0] != "_"
            }
    return found


def name_role(kind, raw, text, line, inliner, options=None, content=None):
    """Make a link of a public name: ``dnnfem.dorfler``, or a class by itself; all else is code."""
    literal = nodes.literal(raw, text)
    place = PLACES.get(text.removeprefix("dnnfem.")) if text.startswith("dnnfem.") or text[0].isupper() else None
    if place is None:
        return [literal], []
    return [addnodes.pending_xref("", literal, refdomain="py", reftype="obj", reftarget=place, refwarn=False)], []


PLACES = places()


def setup(app):
    """Register the role, and what is left out."""
    app.add_role("name", name_role)
    app.connect("autodoc-skip-member", foreign)


# ---- the gallery

DEMOS = HERE / "_demos"
"""Demos run in a copy, where they find no archive of an earlier run; the folder is new in every build."""


def copy_demos():
    """Make the folder in which demos run."""
    shutil.rmtree(DEMOS, ignore_errors=True)
    shutil.copytree(ROOT / "demos", DEMOS, ignore=shutil.ignore_patterns("output", "__pycache__"))


copy_demos()
sphinx_gallery_conf = {
    "examples_dirs": str(DEMOS),
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "within_subsection_order": "_gallery.Order",
    "reset_argv": "_gallery.arguments",
    "reset_modules": ("_gallery.named",),
    "first_notebook_cell": "import builtins\n\nbuiltins.__file__ = 'demo.py'  # what is written goes to output/",
    "download_all_examples": False,
    "show_memory": False,
    "min_reported_time": 1e9,
    "plot_gallery": "True",
}
