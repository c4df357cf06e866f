"""How the demos become a gallery."""

import builtins
from pathlib import Path

ORDER = [
    "quickstart",
    "regression_width",
    "regression_noisy",
    "classification_width",
    "width_or_depth",
    "large_sample",
    "restart",
    "distributed",
    "poisson",
    "burgers",
    "growing_errors",
    "lshape",
    "heat_guaranteed",
    "inverse",
    "spirals_depth",
    "depth_vs_uniform",
    "digits_flow",
    "exact_values",
    "own_estimator",
    "own_field",
    "own_pde",
]
"""As a reader may want to meet them; what is not listed comes last."""

SLOW = ("burgers", "distributed", "heat_guaranteed")
"""Demos that take minutes: they are run with ``--quick``."""


class Order:
    """Key that sorts the demos."""

    def __init__(self, folder):
        pass

    def __call__(self, name):
        stem = Path(name).stem
        return (ORDER.index(stem) if stem in ORDER else len(ORDER), stem)


def arguments(conf, script):
    """Return what is behind the name of a demo on its command line."""
    return ["--quick"] if Path(script["src_file"]).stem in SLOW else []


def named(conf, name):
    """Give a demo its ``__file__``, which a gallery does not have; demos write beside themselves."""
    builtins.__file__ = name
