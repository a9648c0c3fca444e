"""A search from end to end: what it proposes, gives up, keeps, resumes and shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor, nn

import hardpoint as hp
from hardpoint.core.access import Access
from hardpoint.core.errors import ConfigError, DataError, ModelError, RunError
from hardpoint.evidence.rate import Rate
from hardpoint.evidence.search import SearchRecord, Trial
from hardpoint.evidence.store import RunFolder
from hardpoint.harden.search import Architecture, Limits, Space, trying
from hardpoint.harden.search.proposals import Proposal, given_up, proposed
from hardpoint.models.loading import load_model
from hardpoint.report.html import page_of
from hardpoint.report.tradeoff import drawn
from quick_judge import judged_by_accuracy

from small_lessons import cloud  # isort: skip

pytest.importorskip("optuna")

LIMITS = Limits(400, 400)
ROWS = Space(depth=(1, 2), norm=Space().norm[:1], skip=(True,), size=(1.0,))
"""Six networks."""


def trial(number: int, robust: float | None, curve: tuple[float, ...] = (), operations: int = 10) -> Trial:
    rate = None if robust is None else Rate.of(round(robust * 100), 100)
    network = Proposal(Architecture((2,), 2, width=number + 1), 1.0).to_json() if number else {}
    return Trial(number, network, f"network {number}", 5, operations, curve, rate, rate, 1.5)


def plane(n: int = 160, seed: int = 0) -> tuple[Tensor, Tensor]:
    return cloud(n, seed)


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)).eval()


def searched(folder: Path | None, **more: Any) -> Any:
    x, y = plane()
    settings: dict[str, Any] = {
        "threat": hp.Linf(0.02),
        "trials": 2,
        "space": ROWS,
        "limits": LIMITS,
        "training": hp.Training(epochs=2, batch_size=32, lr=0.02, validation=0.1),
        "judged": 20,
        "run_dir": folder,
        "progress": False,
    }
    return hp.search(small(), x, y, **{**settings, **more})


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trying, "assess", judged_by_accuracy)


def without_time(record: SearchRecord) -> list[dict[str, Any]]:
    return [{**t.to_json(), "seconds": 0} for t in record.trials]


def test_proposals_are_the_same_again_and_never_repeat() -> None:
    known: list[Trial] = []
    for number in range(1, 7):
        first, again = (proposed(ROWS, (2,), 2, LIMITS, known, number, 3) for _ in range(2))
        assert first is not None
        assert first == again
        assert first.architecture not in [Proposal.from_json(t.network).architecture for t in known]
        made = trial(number, 0.5)
        known.append(Trial(**{**vars(made), "network": first.to_json()}))
    assert proposed(ROWS, (2,), 2, LIMITS, known, 7, 3) is None


def test_what_is_asked_for_at_once_differs() -> None:
    first = proposed(ROWS, (2,), 2, LIMITS, [], 1, 0)
    assert first is not None
    second = proposed(ROWS, (2,), 2, LIMITS, [], 1, 0, besides=[first])
    assert second is not None
    assert second != first


def test_limits_that_allow_nothing_propose_nothing() -> None:
    assert proposed(ROWS, (2,), 2, Limits(3, 3), [], 1, 0) is None


def test_trainings_behind_the_median_are_given_up_at_a_third_and_two_thirds_only() -> None:
    known = [trial(k, 0.5, (0.1 * k,) * 9) for k in range(1, 6)]  # the median is 0.3 all the way
    assert given_up(known, (0.0, 0.0, 0.29), 9)
    assert not given_up(known, (0.0, 0.0, 0.31), 9)
    assert not given_up(known, (0.0, 0.0, 0.29, 0.0), 9)
    assert given_up(known, (0.2,) * 6, 9)
    assert not given_up(known, (0.2,) * 9, 9)  # it is done
    assert not given_up(known[:2], (0.0,) * 3, 9)  # of too few


def test_the_front_is_what_no_cheaper_one_beats() -> None:
    trials = tuple(
        trial(k, r, operations=o)
        for k, (r, o) in enumerate([(0.5, 5), (0.4, 9), (0.7, 9), (0.7, 12), (None, 1)])
    )
    record = SearchRecord("t", "r", 3, 4, 9, 9, trials)
    by_force = {
        t.number
        for t in trials
        if t.robust is not None
        and not any(
            o.robust is not None
            and o.operations <= t.operations
            and o.robust.value >= t.robust.value
            and (o.operations, o.robust.value) != (t.operations, t.robust.value)
            for o in trials
        )
    }
    assert {t.number for t in record.front} == by_force == {0, 2}
    assert record.found is not None
    assert record.found.number == 2
    assert SearchRecord.from_json(json.loads(json.dumps(record.to_json()))) == record
    assert [t.outcome for t in trials] == ["finished"] * 4 + ["given up"]


def test_a_search_from_end_to_end(quick: None, tmp_path: Path) -> None:
    x, y = plane(40, seed=9)
    result = searched(
        tmp_path / "run", test=(x, y), threat=hp.Threat(hp.Linf(0.02), access=Access.SCORES, queries=10)
    )
    assert [t.number for t in result.record.trials] == [0, 1, 2]
    best = max(t.robust.value for t in result.record.trials[1:] if t.robust is not None)
    assert result.found.robust.value == best
    assert result.architecture == Proposal.from_json(result.found.network).architecture
    assert all(LIMITS.weights >= t.weights for t in result.record.trials[1:])
    written = load_model(
        f"{tmp_path / 'run' / 'architecture.py'}:make", weights=tmp_path / "run" / "model.safetensors"
    )
    assert torch.equal(written.scores(x), result.model(x))  # type: ignore[attr-defined]
    assert not result.model.training
    folder = RunFolder(tmp_path / "run")
    assert folder.header()["status"] == "finished"
    assert [a.name for a in folder.read()] == ["baseline", "found"]
    assert folder.search() == result.record
    assert result.before is not None
    assert result.after is not None
    page = page_of(folder.read(), folder.header(), search=folder.search())
    assert "Trial by trial" in page
    assert "found ·" in page
    assert result.architecture.activation.value in page


def test_a_search_that_was_interrupted_goes_on(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = searched(tmp_path / "whole")
    trained, calls = trying.harden, []

    def broken(*args: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return trained(*args, **more)

    monkeypatch.setattr(trying, "harden", broken)
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path / "cut")
    assert len(RunFolder(tmp_path / "cut").search().trials) == 2  # type: ignore[union-attr]
    done = searched(tmp_path / "cut", resume=True)
    assert len(calls) == 4  # what was done was not done again
    assert [t.network for t in done.record.trials] == [t.network for t in whole.record.trials]
    longer = searched(tmp_path / "cut", resume=True, trials=3)
    assert without_time(longer.record)[:3] == without_time(done.record)
    with pytest.raises(RunError, match="another"):
        searched(tmp_path / "cut", resume=True, seed=5)
    with pytest.raises(RunError, match="already holds a run"):
        searched(tmp_path / "cut")


@pytest.mark.parametrize("said", [{}, {"size": 1.0}, {"shape": [2], "classes": 2, "width": "x", "size": 1.0}])
def test_a_damaged_trial_is_named(said: dict[str, Any]) -> None:
    with pytest.raises(RunError, match="damaged"):
        Proposal.from_json(said)


def test_a_network_that_diverges_is_told_and_left(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, calls = trying.harden, []

    def broken(*args: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise ModelError("the loss is not finite", "train slower")
        return trained(*args, **more)

    monkeypatch.setattr(trying, "harden", broken)
    record = searched(None).record
    assert [t.outcome for t in record.trials] == ["finished", "failed", "finished"]
    assert "not finite" in record.trials[1].problem


def test_an_exhausted_space_ends_the_search(quick: None) -> None:
    only = Space(
        depth=(1,), activation=Space().activation[:1], norm=Space().norm[:1], skip=(True,), size=(1.0,)
    )
    record = searched(None, space=only, trials=5).record
    assert [t.number for t in record.trials] == [0, 1]
    assert record.planned == 5


@pytest.mark.parametrize(
    ("more", "kind", "what"),
    [
        ({"trials": 0}, ConfigError, "trials is 0"),
        ({"recipe": "default"}, ConfigError, "differs from network to network"),
        ({"recipe": "search"}, ConfigError, "no recipe"),
        ({"training": hp.Training(validation=0.0)}, ConfigError, "holds no inputs back"),
        ({"limits": Limits(3, 3)}, ConfigError, "no network has at most 3 weights"),
        ({"test": plane()}, DataError, "are among those"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    quick: None, more: dict[str, Any], kind: type[Exception], what: str
) -> None:
    with pytest.raises(kind, match=what):
        searched(None, **more)


def test_the_picture_shows_what_was_trained_to_the_end() -> None:
    record = SearchRecord("t", "r", 3, 3, 9, 9, (trial(0, 0.4), trial(1, 0.6, operations=30), trial(2, None)))
    root = ElementTree.fromstring(drawn(record))
    dots = [c for c in root.iter("{http://www.w3.org/2000/svg}circle") if len(c)]
    assert len(dots) == 2
    assert root.tag.endswith("svg")
    ElementTree.fromstring(drawn(SearchRecord("t", "r", 3, 3, 9, 9, ())))
    ElementTree.fromstring(drawn(SearchRecord("t", "r", 3, 3, 9, 9, (trial(0, 0.0),))))


def test_a_baseline_that_cannot_be_trained_does_not_end_the_search(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, calls = trying.harden, []

    def broken(*args: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise ModelError("the loss is not finite", "train slower")
        return trained(*args, **more)

    monkeypatch.setattr(trying, "harden", broken)
    x, y = plane(20, seed=9)
    scores = hp.Threat(hp.Linf(0.02), access=Access.SCORES, queries=10)
    result = searched(tmp_path / "run", trials=1, test=(x, y), threat=scores)
    assert [t.outcome for t in result.record.trials] == ["failed", "finished"]
    assert result.before is None
    assert result.after is not None


def test_a_refused_resume_changes_nothing(quick: None, tmp_path: Path) -> None:
    searched(tmp_path / "run", trials=1)
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(RunError, match="another seed"):
        searched(tmp_path / "run", trials=1, resume=True, seed=4)
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before
    other = RunFolder(tmp_path / "other")
    other.begin({"assessments": ["linf"]}, resume=False)
    with pytest.raises(RunError, match="holds no search"):
        searched(tmp_path / "other", resume=True)
    assert not other.search_path.exists()


def test_a_network_that_a_short_attack_puts_behind_is_not_judged(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    behind = trying._is_behind

    def told(*args: Any) -> bool:
        seen.append(behind(*args))
        return seen[-1]

    monkeypatch.setattr(trying, "_is_behind", told)
    record = searched(None, trials=4, threat=hp.Linf(0.3)).record
    assert seen[:2] == [False, False]  # the baseline, and the first of the others
    assert [t.robust is None for t in record.trials] == seen
