"""Attacks under constraints on the published phishing-URL table, and how near they come to the exact distance."""

from __future__ import annotations

import csv
import gzip
import time

import torch
from torch import Tensor

import hardpoint as hp
from benchmarks.measure import Options, Table
from benchmarks.models import DATA
from hardpoint.attacks import MOEVA, CoordinateAttack, LeafTupleAttack, exact_distances
from hardpoint.attacks.base import StandaloneAttack
from hardpoint.models.trees import read_trees
from hardpoint.threats.features import FeatureEdits, Schema

_SIGNS = (
    "nb_dots, nb_hyphens, nb_at, nb_qm, nb_and, nb_or, nb_eq, nb_underscore, nb_tilde, nb_percent, nb_slash, nb_star, "
    "nb_colon, nb_comma, nb_semicolumn"
)
_RELATIONS = [
    "length_hostname <= length_url",
    f"sum({_SIGNS}) + 3 * nb_space <= length_url",
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
"""Simonetto et al., "A unified framework for adversarial attack and defense in constrained feature space", 2022."""


def run(options: Options) -> list[Table]:
    """Two tables: success of the heuristics, and their distances beside the exact ones."""
    try:
        schema, x, y, x_test, y_test = phishing_urls()
    except FileNotFoundError as missing:
        empty = Table("Phishing URLs", [])
        empty.notes.append(f"Left out: {missing.filename} is absent.")
        return [empty]
    return [_success(options, schema, x, y, x_test, y_test), _exact(options, schema, x, y, x_test, y_test)]


def phishing_urls(seed: int = 0) -> tuple[Schema, Tensor, Tensor, Tensor, Tensor]:
    """The schema, half of the rows to learn from and the valid ones of the other half, cut anew by each seed."""
    folder = DATA / "text_tabular" / "tabular"
    schema = Schema.load(folder / "constraints_phishing_url_features.csv", _RELATIONS)
    with gzip.open(folder / "phishing_urls.csv.gz", "rt", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    x = torch.tensor([[float(line[name]) for name in schema.names] for line in lines])
    y = torch.tensor([int(line["status"] == "phishing") for line in lines])
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    half = len(x) // 2
    test = order[half:][schema.check(x[order[half:]])]
    return schema, x[order[:half]], y[order[:half]], x[test], y[test]


def _success(options: Options, schema: Schema, x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> Table:
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(max_iter=100, random_state=0).fit(x.numpy(), y.numpy())
    n = 100 if options.quick else 500
    rows, right = x_test[:n], y_test[:n]
    clean = float(model.score(rows.numpy(), right.numpy()))
    known = torch.from_numpy(model.predict(rows.numpy())) == right
    columns = ["attack", "L2 of the ranges", "rows", "success", "s per row", "queries per row"]
    table = Table("Phishing URLs, 100 boosted trees, every constraint on", columns)
    attacks: list[StandaloneAttack] = [CoordinateAttack(read_trees(model)), MOEVA(generations=50)]
    for attack in attacks:
        few = n if isinstance(attack, CoordinateAttack) else n // 5
        for eps in (0.5, 0.1):
            edits = FeatureEdits(schema, eps, "l2")
            began = time.perf_counter()
            result = attack(model, rows[:few], right[:few], hp.Threat(edits, access="scores"))
            spent = (time.perf_counter() - began) / few
            fell = result.broken & known[:few]
            assert bool(schema.check(result.adversarial[fell]).all())
            share = float(fell.sum() / known[:few].sum())
            name = type(attack).__name__
            table.rows.append(
                [name, f"{eps:g}", str(few), f"{share:.3f}", f"{spent:.3f}", f"{result.passes.queries:,.0f}"]
            )
            options.say(" | ".join(table.rows[-1]))
    table.notes.append(
        f"scikit-learn's HistGradientBoosting, accuracy {clean:.3f} on these rows; success among rows answered right; "
        "each returned row passed the independent constraint checker."
    )
    return table


def _exact(options: Options, schema: Schema, x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> Table:
    from sklearn.ensemble import RandomForestClassifier

    model = RandomForestClassifier(10, max_depth=5, random_state=0).fit(x.numpy(), y.numpy())
    n = 6 if options.quick else 20
    rows, right, trees = x_test[:n], y_test[:n], read_trees(model)
    table = Table(
        "Phishing URLs, a forest of 10 trees: distance beside the exact one (MILP)",
        ["norm", "attack", "rows", "solved", "nearer than exact", "mean ratio", "s per row"],
    )
    for norm in ("linf", "l1"):
        edits = FeatureEdits(schema, norm=norm)
        began = time.perf_counter()
        exact = exact_distances(model, rows, right, edits)
        solved, spent = exact.solved, (time.perf_counter() - began) / n
        table.rows.append([norm, "MILP", str(n), str(int(solved.sum())), "", "", f"{spent:.2f}"])
        several: tuple[StandaloneAttack, ...] = (
            LeafTupleAttack(trees, rounds=40),
            CoordinateAttack(trees, rounds=8),
            MOEVA(generations=20),
        )
        for attack in several:
            began = time.perf_counter()
            found = attack(model, rows, right, hp.Threat(edits, access="scores")).distance
            spent = (time.perf_counter() - began) / n
            both = solved & torch.isfinite(found) & (exact.distance > 0)
            nearer = int((found[solved] < exact.distance[solved] - 1e-9).sum())
            ratio = float((found[both] / exact.distance[both]).mean())
            name = type(attack).__name__
            table.rows.append([norm, name, str(n), "", str(nearer), f"{ratio:.3f}", f"{spent:.2f}"])
        options.say(str(table.rows[-4:]))
    return table
