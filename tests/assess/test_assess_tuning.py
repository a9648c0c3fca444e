"""What thresholds do: detectors whose worth is known exactly, and benign inputs too few to enforce one."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

import hardpoint as hp
from hardpoint.assess.columns import aligned
from hardpoint.assess.tuning import TOGETHER
from hardpoint.core.errors import ConfigError, DataError, HardpointError, ModelError
from hardpoint.core.rng import Rng, split_rows
from hardpoint.defenses import BitDepth, added_latency, calibrated
from hardpoint.defenses.calibration import exact_rate
from hardpoint.defenses.detectors import Energy, Margin
from hardpoint.defenses.seen import Seen
from hardpoint.models import TorchModel
from small_models import labelled, linear, mlp, rand

pytestmark = pytest.mark.usefixtures("no_panel")
QUIET = {"progress": False, "budget": hp.Budget(passes=200)}


@dataclass(frozen=True)
class Place:
    """How far a number of the input is beyond ``start``, one way or both."""

    axis: int
    sign: float = 1.0
    both: bool = False
    start: float = 0.0
    name: str = "place"
    layers: tuple[str, ...] = ()

    def score(self, seen: Seen) -> Tensor:
        apart = self.sign * (seen.x[:, self.axis] - self.start)
        return apart.abs() if self.both else apart

    def describe(self) -> dict[str, Any]:
        return {"kind": "place", "axis": self.axis}


def boundary() -> torch.nn.Module:
    """Class 1 where the first number, and a little of the second, is above 0.6."""
    return linear(torch.tensor([[0.0, 0.0], [10.0, 1.0]]), torch.tensor([0.0, -6.5]))


def near_it(n: int = 40) -> tuple[Tensor, Tensor]:
    x = torch.full((n, 2), 0.5)
    x[:, 0] = 0.41 + 0.05 * rand(n)
    return x, torch.zeros(n, dtype=torch.int64)


def benign(n: int = 200) -> Tensor:
    x = torch.full((n, 2), 0.5)
    x[:, 0] = 0.5 * rand(n, seed=1)
    x[:, 1] += 1e-3 * (rand(n, seed=2) - 0.5)
    return x


def test_what_detectors_catch_is_known_where_their_scores_are():
    x, y = near_it()
    everything = Place(0, name="all beyond 0.5")  # every wrong example lies there
    nothing = Place(0, sign=-1.0, name="all below 0")
    distracted = Place(1, both=True, start=0.5, name="second number")  # moves by itself, and need not
    table = hp.tune(
        boundary(),
        [everything, nothing, distracted],
        benign(400),
        x,
        y,
        threat=hp.Linf(0.2),
        alphas=[0.1],
        **QUIET,
    )
    rows = {row.detector: row for row in table}
    for name, naive, adaptive in (
        ("all beyond 0.5", 1.0, 1.0),
        ("all below 0", 0.0, 0.0),
        ("second number", 1.0, 0.0),
        (TOGETHER, 1.0, 1.0),
    ):
        row = rows[name]
        assert row.caught_naive is not None
        assert row.caught_adaptive is not None
        assert (row.caught_naive.value, row.caught_adaptive.value) == (naive, adaptive), name
        assert row.caught_naive.n == 40
        assert row.added_ms is not None
        assert row.added_ms >= 0
    assert rows[TOGETHER].threshold is None
    assert "at most 10 %" in rows[TOGETHER].guarantee
    assert table.naive.robust_accuracy.value == 0.0


def test_thresholds_and_false_alarms_are_those_of_the_two_parts():
    net = mlp()
    x = rand(24, 8, seed=8)
    held = rand(400, 8, seed=3)
    model = hp.Defended(net, [BitDepth(bits=6)])
    table = hp.tune(model, [Energy(), Margin()], held, x, labelled(net, x), threat=hp.Linf(0.02), **QUIET)
    kept, apart = split_rows(400, 0.5, Rng(0).fork("holdout"))
    assert (table.calibration, table.holdout) == (200, 200)
    assert [(row.detector, row.alpha) for row in table] == [
        (name, alpha) for name in ("energy", "margin", TOGETHER) for alpha in (0.1, 0.05, 0.01)
    ]
    again = calibrated(model, [Energy()], held[kept], alpha=0.05)
    refused = int((again.predict(held[apart]) == again.refusal).sum())
    assert table.rows[1].threshold == again.alarms[0].threshold
    assert table.rows[1].false_positives == exact_rate(refused, 200)
    assert table.rows[1].guarantee == again.alarms[0].guarantee


def test_too_few_benign_inputs_leave_a_row_that_says_how_many_it_takes():
    x, y = near_it(10)
    table = hp.tune(
        boundary(), [Place(0), Place(1)], benign(80), x, y, threat=hp.Linf(0.2), alphas=(0.01, 0.1), **QUIET
    )
    assert [(row.alpha, row.needed) for row in table] == [
        (0.1, None), (0.01, 299), (0.1, None), (0.01, 299), (0.1, 72), (0.01, 736),
    ]  # fmt: skip
    short = table.rows[1]
    assert short.threshold is short.false_positives is short.caught_naive is short.caught_adaptive is None
    assert "at least n = 299" in short.guarantee
    assert "299 to calibrate needed, 40 there" in str(table)
    told = json.loads(json.dumps(table.describe()))
    assert [row["needed"] for row in told["rows"]] == [None, 299, None, 299, 72, 736]
    assert told["rows"][0]["caught_adaptive"]["n"] == 10


def test_where_nothing_is_led_astray_nothing_is_said_to_be_caught():
    x, y = near_it(10)
    (row,) = hp.tune(boundary(), [Place(0)], benign(), x, y, threat=hp.Linf(0.01), alphas=[0.1], **QUIET)
    assert row.caught_naive is row.caught_adaptive is None
    assert row.false_positives is not None


def test_rows_depend_neither_on_the_batch_nor_on_the_order_of_shares():
    net = mlp()
    x = rand(16, 8, seed=8)
    settings: dict[str, Any] = {"threat": hp.Linf(0.1), **QUIET}

    def rows(**more: Any):
        table = hp.tune(net, [Energy()], rand(200, 8, seed=3), x, labelled(net, x), **settings, **more)
        return [replace(row, added_ms=None) for row in table]

    first = rows(alphas=(0.1, 0.05), batch_size=64)
    assert rows(alphas=(0.05, 0.1, 0.05), batch_size=7) == first
    for row in first:  # someone who knows the detector can do what someone who does not can
        assert row.caught_adaptive.value <= row.caught_naive.value


def test_detectors_that_a_model_has_already_are_left_out():
    x, y = near_it(10)
    armed = calibrated(hp.Defended(boundary()), [Place(0)], benign(), alpha=0.1)
    plain = hp.tune(boundary(), [Place(1)], benign(), x, y, threat=hp.Linf(0.2), alphas=[0.1], **QUIET)
    again = hp.tune(armed, [Place(1)], benign(), x, y, threat=hp.Linf(0.2), alphas=[0.1], **QUIET)
    assert replace(again.rows[0], added_ms=None) == replace(plain.rows[0], added_ms=None)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"detectors": []}, ConfigError, "no detector"),
        ({"detectors": Energy()}, ConfigError, "is one detector"),
        ({"alphas": ()}, ConfigError, "give shares between 0 and 1"),
        ({"alphas": (0.1, 1.0)}, ConfigError, "give shares between 0 and 1"),
        ({"alphas": (float("nan"),)}, ConfigError, "give shares between 0 and 1"),
        ({"holdout": 1.0}, ConfigError, "holdout is 1.0"),
        ({"benign": torch.zeros(1, 2)}, DataError, "one benign input"),
        ({"benign": torch.zeros(9, 2, dtype=torch.int64)}, DataError, "floating-point"),
        ({"benign": torch.zeros(0, 2)}, DataError, "floating-point"),
        ({"benign": benign() * torch.nan}, HardpointError, "NaN|not finite"),
    ],
)
def test_what_cannot_be_tuned_is_refused(changes, error, message):
    x, y = near_it(6)
    given: dict[str, Any] = {"detectors": [Place(0)], "benign": benign(), **QUIET, **changes}
    detectors, held = given.pop("detectors"), given.pop("benign")
    with pytest.raises(error, match=message):
        hp.tune(boundary(), detectors, held, x, y, threat=hp.Linf(0.1), **given)


def test_a_model_that_only_answers_has_no_detectors():
    class Answers:
        access, box = hp.models.TorchModel(boundary()).access, TorchModel(boundary()).box

        def scores(self, x):
            return boundary()(x)

        def predict(self, x):
            return boundary()(x).argmax(1)

        def describe(self):
            return {"name": "answers"}

    x, y = near_it(6)
    with pytest.raises(ModelError, match="answers only"):
        hp.tune(Answers(), [Place(0)], benign(), x, y, threat=hp.Linf(0.1), **QUIET)


def test_added_time_is_never_below_none():
    model = hp.Defended(boundary())
    assert added_latency(model, model, benign(4), repeats=1) >= 0.0
    with pytest.raises(ConfigError, match="repeats is 0"):
        added_latency(model, model, benign(4), repeats=0)
    with pytest.raises(DataError, match="no inputs"):
        added_latency(model, model, benign(4)[:0])


def test_cells_stand_below_one_another():
    assert aligned([("a", "bb"), ("ccc", "d")]) == "a    bb\nccc  d"
