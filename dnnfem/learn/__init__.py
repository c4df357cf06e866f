"""Estimators for scikit-learn that are the loop solve - estimate - mark - refine, with nothing to tune.

They need the optional dependency scikit-learn, ``pip install dnnfem[learn]``.  The loops are written out in
`dnnfem.learn.regression` and `dnnfem.learn.classification`; whoever wants another one writes another one.
"""

from __future__ import annotations

try:
    from sklearn.utils.validation import validate_data  # noqa: F401
except ImportError as error:
    raise ImportError("dnnfem.learn needs scikit-learn 1.6 or later: pip install 'dnnfem[learn]'") from error

from dnnfem.learn.estimators import AdaptiveClassifier, AdaptiveRegressor

__all__ = ["AdaptiveClassifier", "AdaptiveRegressor"]
