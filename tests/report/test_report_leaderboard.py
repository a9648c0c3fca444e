"""The board: ranked by what stands under every threat, tied where the inputs cannot tell, silent where in doubt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import hardpoint as hp
from hardpoint.evidence import Rate, Status
from hardpoint.evidence.finding import Severity, finding
from hardpoint.report.leaderboard import Entrant, leaderboard, leaderboard_json, write_leaderboard_html
from small_models import labelled, mlp, rand


@pytest.fixture(scope="module")
def record():
    net, x = mlp(), rand(40, 8, seed=8)
    return hp.assess(net, x, labelled(net, x), threat=hp.Linf(0.3), progress=False).record


def with_standing(record, n: int, standing: np.ndarray, name: str = "linf-0.02"):
    status = np.where(standing, Status.STANDING, Status.BROKEN).astype(np.uint8)
    arrays = {key: np.resize(values, n) for key, values in record.outcomes.arrays().items()}
    outcomes = replace(record.outcomes, **{**arrays, "status": status, "label": np.arange(n) % 4})
    rate = Rate.of(int(standing.sum()), n)
    return replace(record, name=name, outcomes=outcomes, robust_accuracy=rate, findings=())


def test_rank_follows_the_inputs_that_stand_under_every_threat(record):
    n = 400
    a, b = np.arange(n) < 300, np.arange(n) >= 100
    both = Entrant("both", (with_standing(record, n, a, "one"), with_standing(record, n, b, "two")))
    even = Entrant("even", tuple(with_standing(record, n, np.arange(n) < 260, t) for t in ("one", "two")))
    rows = leaderboard([both, even], ["one", "two"])
    assert [(row.name, row.rank, row.robust.value) for row in rows] == [("even", 1, 0.65), ("both", 2, 0.5)]


def test_models_that_the_inputs_do_not_tell_apart_share_a_rank(record):
    n = 400
    first = Entrant("first", (with_standing(record, n, np.arange(n) < 200),))
    near = Entrant("near", (with_standing(record, n, (np.arange(n) < 201) & (np.arange(n) >= 2)),))
    far = Entrant("far", (with_standing(record, n, np.arange(n) < 100),))
    rows = leaderboard([far, near, first], ["linf-0.02"])
    assert [(row.name, row.rank) for row in rows] == [("first", 1), ("near", 1), ("far", 3)]


def test_doubtful_failed_and_missing_models_are_listed_and_not_ranked(record):
    n = 100
    whole = with_standing(record, n, np.arange(n) < 90)
    masked = replace(whole, findings=(finding("HP303", "most stand", severity=Severity.FAIL),))
    rows = leaderboard(
        [Entrant("masked", (masked,)), Entrant("gone", (), "it returned NaN"), Entrant("fine", (whole,))],
        ["linf-0.02"],
    )
    assert [(row.name, row.rank) for row in rows] == [("fine", 1), ("masked", None), ("gone", None)]
    assert rows[1].doubts == ("HP303: most stand",)
    assert rows[2].robust is None
    short = leaderboard([Entrant("short", (whole,))], ["linf-0.02", "l2-1"])[0]
    assert short.rank is None
    assert short.doubts == ("not assessed under l2-1",)


def test_the_page_is_whole_and_names_are_harmless(record, tmp_path):
    n = 50
    rows = leaderboard(
        [Entrant("<script>alert(1)</script>", (with_standing(record, n, np.arange(n) < 20),))], ["linf-0.02"]
    )
    about = {
        "name": "m",
        "file": "m.toml",
        "sha256": "0" * 64,
        "command": "hardpoint benchmark m.toml",
        "data": "d",
        "mode": "fast",
        "seed": 0,
    }
    page = write_leaderboard_html(tmp_path / "b.html", rows, ["linf-0.02"], about).read_text()
    assert "<script>alert" not in page
    assert "40" in page
    assert leaderboard_json(rows, about)["models"][0]["rank"] == 1


def test_what_is_proven_is_shown_where_it_is_about_the_same_inputs_and_weights(record, tmp_path):
    net, x = mlp(), rand(40, 8, seed=8)
    y = labelled(net, x)
    proofs = hp.certify(net, x, y, threat=hp.Linf(0.3), method="interval", progress=False).record
    smaller = hp.certify(net, x, y, threat=hp.Linf(0.1), method="interval", progress=False).record
    others = hp.certify(net, x[:20], y[:20], threat=hp.Linf(0.3), method="interval", progress=False).record
    (row,) = leaderboard([Entrant("net", (record,), proofs=(smaller, proofs))], [record.name])
    assert row.certified == proofs.certified
    assert row.certified.value <= row.robust.value
    assert row.to_json()["certified"]["n"] == 40
    about = {
        "name": "b",
        "file": "b.toml",
        "sha256": "0",
        "command": "c",
        "data": "d",
        "mode": "fast",
        "seed": 0,
    }
    write_leaderboard_html(tmp_path / "board.html", [row], [record.name], about)
    for held in ((), (smaller,), (others,)):
        assert leaderboard([Entrant("net", (record,), proofs=held)], [record.name])[0].certified is None
