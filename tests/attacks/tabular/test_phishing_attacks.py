"""The published phishing-URL schema on its real rows: attacks on boosted trees and on a small network."""

from __future__ import annotations

import csv
import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

from hardpoint import Threat
from hardpoint.attacks import MOEVA, CoordinateAttack, LeafTupleAttack, exact_distances
from hardpoint.models.trees import read_trees
from hardpoint.threats.features import FeatureEdits, Schema

ROOT = Path(__file__).parents[3]
FOLDER = Path(os.environ.get("HARDPOINT_DATA", ROOT / "../shared/data")) / "text_tabular" / "tabular"
FEATURES, ROWS = FOLDER / "constraints_phishing_url_features.csv", FOLDER / "phishing_urls.csv.gz"
pytestmark = pytest.mark.skipif(
    not (FEATURES.exists() and ROWS.exists()), reason="no phishing URLs under HARDPOINT_DATA"
)

SIGNS = [
    *("nb_dots", "nb_hyphens", "nb_at", "nb_qm", "nb_and", "nb_or", "nb_eq", "nb_underscore", "nb_tilde"),
    *("nb_percent", "nb_slash", "nb_star", "nb_colon", "nb_comma", "nb_semicolumn"),
]
RELATIONS = [
    "length_hostname <= length_url",
    f"sum({', '.join(SIGNS)}) + 3 * nb_space <= length_url",
    "nb_com > 0 implies nb_dots > 0",
    "http_in_path > 0 implies nb_slash > 0",
    "3 * nb_www + 4 * nb_com + 2 * http_in_path <= length_url",
    "nb_space > 0 implies ratio_digits_url > 0",
    "ip > 0 implies ratio_digits_url > 0",
    "port > 0 implies ratio_digits_url > 0",
    "abnormal_subdomain > 0 implies ratio_digits_host > 0",
    "nb_external_redirection <= nb_redirection",
    "3 * nb_www <= length_url + 1",
    "4 * nb_com <= length_url + 1",
    "4 * ip <= length_url + 1",
    "2 * http_in_path <= length_url + 1",
]


def independently_valid(x: np.ndarray, z: np.ndarray, eps: float) -> np.ndarray:
    """Bounds, whole numbers, relations and the L2 budget, written out a second time, in numpy alone."""
    with FEATURES.open() as file:
        lines = list(csv.DictReader(file))
    low, high = (np.array([float(line[end]) for line in lines]) for end in ("min", "max"))
    low, high = np.minimum(low, low.astype(np.float32)), np.maximum(high, high.astype(np.float32))
    whole = np.array([line["type"] == "int" for line in lines])
    f = {line["feature"]: z[:, i].astype(float) for i, line in enumerate(lines)}

    def implies(a: str, b: str) -> np.ndarray:
        return (f[a] <= 0) | (f[b] > 0)

    url = f["length_url"]
    holds = [
        f["length_hostname"] <= url,
        sum(f[sign] for sign in SIGNS) + 3 * f["nb_space"] <= url,
        implies("nb_com", "nb_dots"),
        implies("http_in_path", "nb_slash"),
        3 * f["nb_www"] + 4 * f["nb_com"] + 2 * f["http_in_path"] <= url,
        implies("nb_space", "ratio_digits_url"),
        implies("ip", "ratio_digits_url"),
        implies("port", "ratio_digits_url"),
        implies("abnormal_subdomain", "ratio_digits_host"),
        f["nb_external_redirection"] <= f["nb_redirection"],
        *(
            k * f[name] <= url + 1
            for k, name in ((3, "nb_www"), (4, "nb_com"), (4, "ip"), (2, "http_in_path"))
        ),
    ]
    width = np.where(high > low, high - low, 1.0)
    size = np.sqrt((((z.astype(float) - x) / width) ** 2).sum(1))
    inside = ((z >= low) & (z <= high)).all(1) & (z == np.round(z))[:, whole].all(1)
    return inside & np.all(holds, axis=0) & (size <= eps * (1 + 1e-9))


@pytest.fixture(scope="module")
def urls():
    schema = Schema.load(FEATURES, RELATIONS)
    with gzip.open(ROWS, "rt", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    x = torch.tensor([[float(line[name]) for name in schema.names] for line in lines])
    y = torch.tensor([int(line["status"] == "phishing") for line in lines])
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    half = len(x) // 2
    test = order[half:][schema.check(x[order[half:]])]
    return schema, x[order[:half]].numpy(), y[order[:half]].numpy(), x[test], y[test]


def test_boosted_trees_fall_to_valid_urls(urls):
    schema, x_train, y_train, x, y = urls
    model = HistGradientBoostingClassifier(max_iter=100, random_state=0).fit(x_train, y_train)
    assert model.score(x[:1000].numpy(), y[:1000].numpy()) > 0.95
    x, y = x[:40], y[:40]
    right = torch.from_numpy(model.predict(x.numpy())) == y
    for eps, least in ((0.5, 0.95), (0.1, 0.65)):
        edits = FeatureEdits(schema, eps, "l2")
        result = CoordinateAttack(read_trees(model))(model, x, y, Threat(edits, access="scores"))
        fallen = result.broken & right
        assert fallen.sum() / right.sum() >= least
        z = result.adversarial[fallen].numpy()
        assert independently_valid(x[fallen].numpy(), z, eps).all()
        assert (model.predict(z) != y[fallen].numpy()).all()
    # without knowing the trees the search finds valid rows too
    few = x[:12]
    blind = MOEVA(generations=20)(
        model, few, y[:12], Threat(FeatureEdits(schema, 0.5, "l2"), access="scores")
    )
    assert blind.broken.double().mean() >= 0.5
    assert independently_valid(few.numpy(), blind.adversarial.numpy(), 0.5).all()


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_no_attack_comes_nearer_than_the_exact_distance(urls, norm):
    schema, x_train, y_train, x, y = urls
    model = RandomForestClassifier(10, max_depth=5, random_state=0).fit(x_train, y_train)
    x, y = x[:4], y[:4]
    edits = FeatureEdits(schema, norm=norm)
    found = exact_distances(model, x, y, edits)
    assert found.solved.all()
    trees = read_trees(model)
    for attack in (
        LeafTupleAttack(trees, rounds=40),
        CoordinateAttack(trees, rounds=8),
        MOEVA(generations=8),
    ):
        other = attack(model, x, y, Threat(edits, access="scores"))
        assert (other.distance >= found.distance - 1e-9).all()
    assert independently_valid(x.numpy(), found.witness.numpy(), np.inf).all()
