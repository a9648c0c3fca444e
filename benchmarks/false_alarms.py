"""Are the promised rates of false alarms kept? Every detector, combinations, 1,000 draws, and too few inputs."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from scipy.stats import beta, betabinom
from torch import Tensor, nn

import hardpoint as hp
from benchmarks.measure import Options, Table
from benchmarks.mnist_network import DROPOUT, EARLY, LATE, accuracy, network, unseen
from benchmarks.models import mnist
from hardpoint.defenses import BitDepth, DenoisingAutoencoder, MedianSmoothing
from hardpoint.defenses.calibration import (
    Fisher,
    Uncalibrated,
    bonferroni,
    flagged,
    marginal_threshold,
    mean_e_value,
    p_values,
    pac_rank,
    pac_threshold,
    smallest_n,
)
from hardpoint.defenses.defended import DefendedModel
from hardpoint.defenses.detectors import (
    ActivationAnomaly,
    DeepNearestNeighbours,
    Energy,
    Entropy,
    FeatureSqueezing,
    KernelDensity,
    LayerDisagreement,
    LocalDimensionality,
    Mahalanobis,
    Margin,
    MaxLogit,
    NearestNeighbours,
    PredictiveUncertainty,
    ReconstructionError,
    TrainedDetector,
)
from hardpoint.defenses.looking import look
from hardpoint.defenses.seen import Detector

ALPHAS = (0.05, 0.01, 0.001)
DELTA = 0.05
SURE = 0.99


def false_alarms(options: Options) -> list[Table]:
    """Rates on inputs that calibrated nothing, PAC over 1,000 draws, and refusal."""
    fit, calibrate = (2_000, 3_000) if options.quick else (6_000, 10_000)
    x, y = unseen()
    if options.quick:
        x, y = x[:11_000], y[:11_000]
    net = network(epochs=1 if options.quick else 7)
    options.say(f"network: {accuracy(net, *mnist()):.2%} of the test images right")
    model = hp.Defended(net)
    scores = _all_scores(model, net, x, y, fit, options)
    parts = {name: s.split([calibrate, calibrate, len(s) - 2 * calibrate]) for name, s in scores.items()}
    return [_coverage(parts), _combined(parts), _pac(scores), _refusal()]


def _all_scores(
    model: DefendedModel, net: nn.Sequential, x: Tensor, y: Tensor, fit: int, options: Options
) -> dict[str, Tensor]:
    """Every detector's scores of all inputs behind the first ``fit``, which it was fitted on."""
    first = model.look(x[:fit], (EARLY, LATE))
    bent = model.look(hp.attacks.FGSM()(net, x[:1000], y[:1000], hp.Linf(0.3)).adversarial, (EARLY, LATE))
    labels, filter = y[:fit], DenoisingAutoencoder.fit(x[:1000], epochs=3)
    detectors: list[Detector] = [
        Energy(),
        MaxLogit(),
        Margin(),
        Entropy(),
        Mahalanobis.fit(first, labels, LATE),
        Mahalanobis.fit(first, labels, LATE, relative=True),
        NearestNeighbours.fit(first, labels, LATE, k=6),
        DeepNearestNeighbours.fit(first, labels, (EARLY, LATE)),
        KernelDensity.fit(first, labels, EARLY),
        LocalDimensionality.fit(first, labels, LATE),
        ActivationAnomaly.fit(first, labels, LATE),
        LayerDisagreement.fit(first, labels, (EARLY,)),
        TrainedDetector.fit(first, bent, (EARLY, LATE)),
        ReconstructionError(filter),
        FeatureSqueezing((BitDepth(1), MedianSmoothing(2))),
    ]
    scores: dict[str, list[Tensor]] = {}
    drawing = _that_draws(net)
    for part in x[fit:].split(1000):
        seen = model.look(part, (EARLY, LATE))
        with torch.no_grad():
            for detector in detectors:
                scores.setdefault(detector.name, []).append(detector.score(seen))
            torch.manual_seed(len(scores[Energy().name]))
            random = look(drawing, part, allow_training=None)
            scores.setdefault("predictive uncertainty", []).append(PredictiveUncertainty(5).score(random))
    options.say(f"{len(scores)} detectors scored {len(x) - fit} inputs")
    return {name: torch.cat(found) for name, found in scores.items()}


def _that_draws(net: nn.Sequential) -> nn.Sequential:
    """The same with its dropout left on."""
    return nn.Sequential(*net[:DROPOUT], nn.Dropout(0.3).train(), net[DROPOUT + 1]).requires_grad_(False)


def _coverage(parts: dict[str, tuple[Tensor, ...]]) -> Table:
    n, m = (len(next(iter(parts.values()))[place]) for place in (0, 2))
    table = Table(
        f"False alarms among {m:,} inputs, thresholds from {n:,} others",
        ["detector", *(f"α = {100 * alpha:g} %" for alpha in ALPHAS), "ties"],
    )
    within = inside = total = 0
    for name, (benign, _, holdout) in parts.items():
        cells, tied = [], 1 - len(benign.unique()) / len(benign)
        for alpha in ALPHAS:
            threshold = marginal_threshold(benign, alpha)
            rate = flagged(threshold, holdout)
            low, high = _interval(n, threshold.rank, m)
            is_in, is_kept = low <= rate.count <= high, rate.count <= high
            within, inside, total = within + is_kept, inside + is_in, total + 1
            mark = "" if is_in else " below" if is_kept else " **above**"
            cells.append(f"{rate.value:.3%} [{low / m:.3%}, {high / m:.3%}]{mark}")
        table.rows.append([name, *cells, f"{tied:.0%}"])
    table.notes.append(
        f"In brackets: the central {SURE:.0%} of what split conformal calibration gives, Beta(l, n + 1 - l) seen on so "
        f"many inputs. {inside} of {total} rates are inside, {within} not above; where scores tie, rates may be below."
    )
    return table


def _interval(n: int, rank: int, m: int) -> tuple[int, int]:
    """Counts among m inputs between which the rate at the rank-th largest of n scores leaves 99 % of the time."""
    law, tail = betabinom(m, rank, n + 1 - rank), (1 - SURE) / 2
    return int(law.ppf(tail)), int(law.ppf(1 - tail))


def _combined(parts: dict[str, tuple[Tensor, ...]]) -> Table:
    names = [
        name
        for name in parts
        if name in ("energy", f"Mahalanobis at {LATE}", f"nearest neighbours at {LATE}")
    ]
    first, second, third = (torch.stack([parts[name][place] for name in names]) for place in range(3))
    n, m = first.shape[1], third.shape[1]
    single = torch.stack([p_values(a, b) for a, b in zip(first, third, strict=True)])
    fisher = Fisher.fit(first, second).p_values(third)
    table = Table(
        f"False alarms of {', '.join(names)} together",
        ["combination", *(f"α = {100 * alpha:g} %" for alpha in ALPHAS), "kept"],
    )
    ways: dict[str, Callable[[float], Tensor]] = {
        "Fisher, calibrated": lambda alpha: fisher <= alpha,
        "Bonferroni": lambda alpha: bonferroni(single) <= alpha,
        "mean of e-values": lambda alpha: mean_e_value(single) >= 1 / alpha,
    }
    for word, flags in ways.items():
        cells, kept = [], True
        for alpha in ALPHAS:
            count = int(flags(alpha).sum())
            low, high = _interval(n, math.floor(alpha * (n + 1)), m)
            kept &= count <= high and (word != "Fisher, calibrated" or count >= low)
            cells.append(f"{count / m:.3%} [{low / m:.3%}, {high / m:.3%}]")
        table.rows.append([word, *cells, "yes" if kept else "no"])
    table.notes.append(
        "Bonferroni and e-values hold under any dependence and stay below; Fisher is to be inside."
    )
    return table


def _pac(scores: dict[str, Tensor]) -> Table:
    table = Table(
        "PAC thresholds over 1,000 draws of calibration sets, with replacement from all scores",
        ["detector", "n", *(f"missed, α = {100 * alpha:g} %" for alpha in ALPHAS)],
    )
    generator = torch.Generator().manual_seed(0)
    expected: dict[int, list[str]] = {}
    for name in ("energy", f"Mahalanobis at {LATE}", f"nearest neighbours at {LATE}"):
        pool = scores[name].double().sort().values
        for n in (3_000, 10_000):
            missed = [0] * len(ALPHAS)
            for _ in range(1000):
                drawn = pool[torch.randint(len(pool), (n,), generator=generator)]
                for place, alpha in enumerate(ALPHAS):
                    value = pac_threshold(drawn, alpha, DELTA).value
                    above = len(pool) - int(torch.searchsorted(pool, value, right=True))
                    missed[place] += above > alpha * len(pool)
            table.rows.append([name, f"{n:,}", *(f"{count / 1000:.1%}" for count in missed)])
            expected[n] = [f"{_chance_of_missing(n, alpha):.1%}" for alpha in ALPHAS]
    laws = "; ".join(f"n = {n:,}: {', '.join(chances)}" for n, chances in expected.items())
    table.notes.append(
        f"At most {DELTA:.0%} may miss. By the Beta law ({laws}); 1,000 draws show it to ±1.8 points."
    )
    return table


def _chance_of_missing(n: int, alpha: float) -> float:
    rank = pac_rank(n, alpha, DELTA)
    return float(beta(rank, n + 1 - rank).sf(alpha))


def _refusal() -> Table:
    table = Table("Too few calibration inputs", ["α", "kind", "needed", "one fewer"])
    for alpha in ALPHAS:
        for kind, delta in (("marginal", None), ("PAC", DELTA)):
            needed = smallest_n(alpha, delta)
            _threshold(torch.arange(float(needed)), alpha, delta)
            try:
                _threshold(torch.arange(float(needed - 1)), alpha, delta)
                told = "**a threshold**"
            except Uncalibrated as error:
                told = f"refused, {error.needed} named"
            table.rows.append([f"{100 * alpha:g} %", kind, f"{needed:,}", told])
    return table


def _threshold(scores: Tensor, alpha: float, delta: float | None) -> object:
    return marginal_threshold(scores, alpha) if delta is None else pac_threshold(scores, alpha, delta)
