"""The published phishing-URL schema on its real rows: 63 features, 14 relations, 11 430 rows."""

from __future__ import annotations

import csv
import gzip
import os
from pathlib import Path

import pytest
import torch

from hardpoint.core.box import UNBOUNDED
from hardpoint.core.rng import Rng
from hardpoint.threats.features import FeatureEdits, LintKind, Schema, lint

ROOT = Path(__file__).parents[3]
FOLDER = Path(os.environ.get("HARDPOINT_DATA", ROOT / "../shared/data")) / "text_tabular" / "tabular"
FEATURES, ROWS = FOLDER / "constraints_phishing_url_features.csv", FOLDER / "phishing_urls.csv.gz"
pytestmark = pytest.mark.skipif(
    not (FEATURES.exists() and ROWS.exists()), reason="no phishing URLs under HARDPOINT_DATA"
)

SIGNS = (
    "nb_dots, nb_hyphens, nb_at, nb_qm, nb_and, nb_or, nb_eq, nb_underscore, nb_tilde, nb_percent, nb_slash, nb_star, "
    "nb_colon, nb_comma, nb_semicolumn"
)
BINDING = [
    "length_hostname <= length_url",
    f"sum({SIGNS}) + 3 * nb_space <= length_url",
    "3 * nb_www + 4 * nb_com + 2 * http_in_path <= length_url",
    "nb_space > 0 implies ratio_digits_url > 0",
    "ip > 0 implies ratio_digits_url > 0",
    "port > 0 implies ratio_digits_url > 0",
    "abnormal_subdomain > 0 implies ratio_digits_host > 0",
    "nb_external_redirection <= nb_redirection",
    "4 * nb_com <= length_url + 1",
]
# The bounds already say these: at least one dot, two slashes and twelve characters.
VACUOUS = [
    "nb_com > 0 implies nb_dots > 0",
    "http_in_path > 0 implies nb_slash > 0",
    "3 * nb_www <= length_url + 1",
    "4 * ip <= length_url + 1",
    "2 * http_in_path <= length_url + 1",
]


@pytest.fixture(scope="module")
def schema() -> Schema:
    return Schema.load(FEATURES, BINDING + VACUOUS)


@pytest.fixture(scope="module")
def rows(schema: Schema) -> torch.Tensor:
    with gzip.open(ROWS, "rt", encoding="utf-8", newline="") as file:
        return torch.tensor([[float(row[name]) for name in schema.names] for row in csv.DictReader(file)])


def test_nearly_all_rows_are_valid_in_either_precision(schema, rows):
    assert (len(schema.features), rows.shape) == (63, (11430, 63))
    valid = schema.check(rows)
    assert valid.double().mean() > 0.999
    assert torch.equal(valid, schema.check(rows.double()))
    assert ((schema.hinges(rows).sum(1) == 0) | ~valid).all()
    assert all(schema.violations(rows[~valid]))


def test_lint_names_what_the_bounds_already_say_and_the_fully_mutable_schema(schema, rows):
    issues = lint(schema, rows)
    assert [i.subject for i in issues if i.kind is LintKind.VACUOUS_RELATION] == VACUOUS
    assert not [i for i in issues if i.kind is LintKind.BROKEN_RELATION]
    assert [i.measured for i in issues if i.kind is LintKind.ALL_MUTABLE] == [63]
    assert [i.subject for i in issues if i.kind is LintKind.EMPTY_RANGE] == ["nb_or"]


def test_an_implication_coded_so_that_it_always_holds_is_caught(schema, rows):
    # "0 <= a or 0 < b" for "a > 0 implies b > 0" holds for every count a
    broken = Schema(schema.features, ["0 <= nb_space or 0 < ratio_digits_url"])
    assert LintKind.VACUOUS_RELATION in {issue.kind for issue in lint(broken, rows)}


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.5), ("l1", 1.0), ("l0", 5)])
def test_edits_of_real_rows_are_valid_and_few_fall_back(schema, rows, norm, eps):
    region = FeatureEdits(schema, eps, norm).around(rows[:1000], UNBOUNDED)
    noise = torch.randn(region.x.shape, generator=torch.Generator().manual_seed(0))
    index = torch.arange(1000)
    projected = region.project(region.x + 0.3 * noise * region.width.float())
    for z, least in ((projected, 0.99), (region.sample(Rng(0), index), 0.8)):
        assert torch.equal(region.contains(z), region.valid)
        assert (z[region.valid] != region.x[region.valid]).any(1).double().mean() > least
