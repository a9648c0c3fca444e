"""Hardening detectors of phishing URLs, trees and networks: how many attacks still succeed, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import hardpoint as hp
from benchmarks.measure import Options, Table
from benchmarks.tables import phishing_urls
from hardpoint.attacks.tabular import caa
from hardpoint.core.access import Access
from hardpoint.harden.recipes import Mixed, NFgsm
from hardpoint.harden.tables import GatedClassifier, Measured, harden_estimator
from hardpoint.harden.tables.measure import measured
from hardpoint.threats.features import FeatureEdits, Schema

_SEEDS = 3
_QUERIES = 1000


@dataclass(frozen=True)
class Rows:
    """The table, cut anew by each seed, and the rows that are attacked."""

    schema: Schema
    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    seed: int
    n: int

    @property
    def attacked(self) -> tuple[Tensor, Tensor]:
        return self.test_x[: self.n], self.test_y[: self.n]


@dataclass(frozen=True)
class Found:
    """Under attack, before and after; accuracy on all test rows, before and after; the share of all test rows that is
    proven to be answered right."""

    attacked: tuple[Measured, Measured]
    accuracy: tuple[float, float]
    proven: float | None = None


@dataclass(frozen=True)
class Trees:
    """Boosted trees, hardened by ``harden_estimator``."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    elsewhere: Callable[[int], Any] | None = None

    def measured(self, rows: Rows, edits: FeatureEdits) -> Found:
        from sklearn.ensemble import HistGradientBoostingClassifier

        before = HistGradientBoostingClassifier(max_iter=100, random_state=rows.seed)
        before.fit(rows.x.numpy(), rows.y.numpy())
        done = harden_estimator(
            before,
            *(rows.x, rows.y),
            threat=edits,
            test=rows.attacked,
            seed=rows.seed,
            progress=False,
            rest=None if self.elsewhere is None else self.elsewhere(rows.seed),
            **self.settings,
        )
        assert done.before is not None
        assert done.after is not None
        said = [torch.from_numpy(m.predict(rows.test_x.numpy())) == rows.test_y for m in (before, done.model)]
        proven = None
        if isinstance(done.model, GatedClassifier):
            settled = torch.from_numpy(done.model.certified(rows.test_x.numpy()))
            proven = float((said[1] & settled).double().mean())
        right = [float(each.double().mean()) for each in said]
        return Found((done.before, done.after), (right[0], right[1]), proven)


def diverse(seed: int) -> Any:
    """Members that differ: boosting on random features, and trees with random thresholds."""
    from sklearn.ensemble import (
        ExtraTreesClassifier,
        HistGradientBoostingClassifier,
        VotingClassifier,
    )

    boosted = [
        (
            f"boosted {i}",
            HistGradientBoostingClassifier(
                max_iter=300, learning_rate=0.05, max_features=0.3, random_state=10 * seed + i
            ),
        )
        for i in range(3)
    ]
    trees = ("trees", ExtraTreesClassifier(300, random_state=seed))
    return VotingClassifier([*boosted, trees], voting="soft", weights=[1, 1, 1, 3])


class Standardised(nn.Module):
    """Columns as multiples of their spread."""

    mean: Tensor
    spread: Tensor

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", x.mean(0))
        self.register_buffer("spread", x.std(0).clamp_min(1e-3))

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = (x - self.mean) / self.spread
        return scaled


@dataclass(frozen=True)
class Network:
    """A small network, trained as usual and then on; ``clean`` is the weight of unchanged rows."""

    name: str
    clean: float
    epochs: int = 10

    def measured(self, rows: Rows, edits: FeatureEdits) -> Found:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rows.seed)
            hidden = (nn.Linear(rows.x.shape[1], 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
            net = nn.Sequential(Standardised(rows.x), *hidden, nn.Linear(64, 2)).eval()
        ends = (float(rows.schema.limits(rows.x)[0].min()), float(rows.schema.limits(rows.x)[1].max()))
        models = [hp.models.TorchModel(net, input_range=ends)]
        for recipe in ("plain", Mixed(NFgsm(), self.clean)):
            training = hp.Training(epochs=self.epochs, lr=3e-3)
            done = hp.harden(
                models[-1],
                *(rows.x, rows.y),
                threat=edits,
                recipe=recipe,
                training=training,
                seed=rows.seed,
                progress=False,
            )
            models.append(hp.models.TorchModel(done.model.module, input_range=ends))
        attacks = caa(Access.GRADIENTS, queries=_QUERIES)
        found = [measured(model, *rows.attacked, edits, attacks, rows.seed) for model in models[1:]]
        right = [float((m.predict(rows.test_x) == rows.test_y).double().mean()) for m in models[1:]]
        return Found((found[0], found[1]), (right[0], right[1]))


WAYS = (
    Trees("boosting, on examples", {"rounds": 3}),
    Trees("boosting, behind a gate", {"rounds": 0, "gate": 0.012}),
    Trees("a diverse ensemble, behind a gate", {"rounds": 0, "gate": 0.013}, diverse),
    Network("network, mixed N-FGSM", clean=0.5),
)


def run(options: Options) -> list[Table]:
    """One table: a row per budget, way and seed."""
    columns = ["hardened", "L2 of the ranges", "seed", "rows", "success", "at most", "accuracy", "lost", "s"]
    table = Table("Phishing URLs hardened, every constraint on", columns)
    for eps in (0.1,) if options.quick else (0.1, 0.5):
        for way in WAYS[1::2] if options.quick else WAYS:
            for seed in range(1 if options.quick else _SEEDS):
                try:
                    known = phishing_urls(seed)
                except FileNotFoundError as missing:
                    return [Table(table.title, [], notes=[f"Left out: {missing.filename} is absent."])]
                table.rows.append(row(way, Rows(*known, seed, 50 if options.quick else 200), eps))
                options.say(" | ".join(table.rows[-1]))
    table.notes.append(
        "Success: the share of rows answered right that an attack broke, before → after. Trees meet CoordinateAttack, "
        "which knows them, then MOEVA; ensembles of several kinds MOEVA; networks CAPGD twice, then MOEVA. At most: "
        "what no attacker exceeds on all test rows, as the others answered right are proven. Accuracy on all test "
        "rows; lost in points. Each seed cuts the rows anew."
    )
    return [table]


def row(way: Trees | Network, rows: Rows, eps: float) -> list[str]:
    """One way on one cut of the rows."""
    began = time.perf_counter()
    found = way.measured(rows, FeatureEdits(rows.schema, eps, "l2"))
    spent = time.perf_counter() - began
    before, after = (each.success for each in found.attacked)
    lost = 100 * (found.accuracy[0] - found.accuracy[1])
    most = "" if found.proven is None else f"{1 - found.proven / found.accuracy[1]:.3f}"
    return [
        *(way.name, f"{eps:g}", str(rows.seed), str(rows.n), f"{before:.3f} → {after:.3f}", most),
        *(f"{found.accuracy[1]:.4f}", f"{lost:.2f}", f"{spent:.0f}"),
    ]
