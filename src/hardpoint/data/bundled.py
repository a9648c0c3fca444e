"""The small tables that come inside scikit-learn. Nothing is downloaded."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardpoint.core.errors import DataError, MissingExtra
from hardpoint.core.suggest import did_you_mean

_NAMES = ["breast_cancer", "digits", "iris", "wine"]


def bundled_table(name: str) -> tuple[NDArray[np.float64], NDArray[np.int64], list[str], list[str]]:
    """The table ``[n, d]`` in its own units, the labels ``[n]``, and the names of its features and classes.

    Raises:
        DataError: for a name scikit-learn would have to download, or does not know.
        MissingExtra: without scikit-learn.
    """
    if name.startswith("fetch_"):
        raise DataError(
            f"sklearn:{name} would be downloaded, and Hardpoint never uses the network",
            f"save it yourself and give the file, or use one of: {', '.join(_NAMES)}",
        )
    if name not in _NAMES:
        raise DataError(f"sklearn:{name} is not bundled with scikit-learn", did_you_mean(name, _NAMES))
    try:
        from sklearn import datasets
    except ImportError:
        raise MissingExtra("sklearn", "reading scikit-learn's data sets") from None
    bunch: Any = getattr(datasets, f"load_{name}")()
    return (
        np.asarray(bunch.data, np.float64),
        np.asarray(bunch.target, np.int64),
        [str(f) for f in bunch.feature_names],
        [str(c) for c in bunch.target_names],
    )
