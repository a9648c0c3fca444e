"""scikit-learn's breast-cancer table, a gradient-boosting model of it, and what may be changed in a row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hardpoint.data import MemoryDataset
from hardpoint.models.sklearn import SklearnModel
from hardpoint.threats.features import Feature, Mutability, Schema


def tumour_table() -> tuple[SklearnModel, MemoryDataset, Schema]:
    """The fitted model, the rows it has not seen, and the schema of what an attacker may edit."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.model_selection import train_test_split

    table = load_breast_cancer()
    names = [str(name) for name in table.feature_names]
    fit_x, test_x, fit_y, test_y = train_test_split(
        table.data.astype("float32"), table.target, test_size=0.35, random_state=0, stratify=table.target
    )
    estimator: Any = GradientBoostingClassifier(random_state=0).fit(fit_x, fit_y)
    classes = [str(name) for name in table.target_names]
    data = MemoryDataset(test_x, test_y, "sklearn:breast_cancer, 35 % held out", names, classes)
    schema = tumour_schema(torch.tensor(table.data, dtype=torch.float32), names)
    return SklearnModel(estimator, name="gradient boosting"), data, schema


def tumour_schema(x: Tensor, names: list[str]) -> Schema:
    """What measurements allow: ranges as seen, errors untouched, and the worst cell at least as large as the mean.

    ``x`` is the whole table ``[n, 30]``: ten measurements as mean, error and worst value over the cells.
    """
    low, high = x.min(0).values.tolist(), x.max(0).values.tolist()
    features = [
        Feature(name, low=low[i], high=high[i], mutable=Mutability.NO if "error" in name else Mutability.YES)
        for i, name in enumerate(names)
    ]
    pairs = [(f"mean {name[6:]}", name) for name in names if name.startswith("worst ")]
    return Schema(features, [f"`{mean}` <= `{worst}`" for mean, worst in pairs])
