"""Randomised smoothing: how many draws a certificate takes, how often one is false, and how many draws a second.

Streams of hits are simulated where only their probability matters. Published certified accuracies say how probabilities
are spread over CIFAR-10; between the radii that they are given for, radii are spread evenly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measure import Options, Table, interleaved, median, peak_memory
from benchmarks.models import lenet5, wk17a
from benchmarks.peers import OURS
from hardpoint.bounds.smoothing import Anytime, Fixed, Gaussian, Smoothed
from hardpoint.bounds.smoothing.binomial import least_hits
from hardpoint.bounds.smoothing.estimators import Estimator, Goal

ALPHA, DRAWS = 0.001, 100_000
_RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
_PUBLISHED = {
    0.25: (0.766, 0.612, 0.422, 0.251),
    0.5: (0.657, 0.549, 0.428, 0.325, 0.220, 0.141, 0.083),
    1.0: (0.471, 0.409, 0.338, 0.277, 0.221, 0.172, 0.133, 0.066),
}
"""Certified accuracy of ResNet-110 on CIFAR-10 at each radius, by noise (Cohen et al. 2019, 100,000 draws)."""
_ASKED = ((0.25, 0.25), (0.25, 0.5), (0.5, 0.25), (0.5, 0.5), (0.5, 1.0), (1.0, 0.5), (1.0, 1.0), (1.0, 2.0))
_OPEN_ENDED = 1.25  # the largest radius is so many times the last one published


def run(options: Options) -> list[Table]:
    """Three tables: draws, false statements, draws a second."""
    torch.set_num_threads(1)
    return [_draws(options), _false(options), _throughput(options)]


@dataclass(frozen=True)
class Streams:
    """What an estimator decided on simulated streams, each ``[n]``."""

    stated: np.ndarray
    taken: np.ndarray


def simulated(estimator: Estimator, p: np.ndarray, target: float | None, seed: int = 0) -> Streams:
    """Hits of probability ``p`` ``[n]`` until the estimator is done.

    ``stated`` says where the target was shown, or, without one, where a bound above ``p`` was ever stated.
    """
    draws, n = np.random.default_rng(seed), len(p)
    hits, taken, stated = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64), np.zeros(n, dtype=bool)
    alive, now = np.arange(n), 0
    while len(alive):
        goal = _goal(target, 1)
        stop = estimator.next_look(now, goal)
        hits[alive] += draws.binomial(stop - now, p[alive])
        now = stop
        taken[alive] = now
        seen, place = np.unique(hits[alive], return_inverse=True)  # a look depends on the count alone
        look = estimator.look(torch.from_numpy(seen), now, _goal(target, len(seen)))
        low = look.low.numpy()[place]
        stated[alive] |= (low > p[alive]) if target is None else low >= target
        alive = alive[~look.done.numpy()[place]]
    return Streams(stated, taken)


def _goal(target: float | None, rows: int) -> Goal:
    wanted = None if target is None else torch.full((rows,), target, dtype=torch.float64)
    return Goal(ALPHA, wanted, lambda p: Gaussian(1.0).radius(p))


def published(sigma: float, n: int) -> np.ndarray:
    """Probabilities of the right class, as the published curve spreads them; those below one half evenly to 0.2."""
    shares = np.array(_PUBLISHED[sigma])
    radii = np.array(_RADII[: len(shares)])
    u = (np.arange(n) + 0.5) / n
    found = np.interp(u, np.r_[0.0, shares[::-1]], np.r_[_OPEN_ENDED * radii[-1], radii[::-1]])
    p = torch.special.ndtr(torch.from_numpy(found / sigma)).numpy()
    wrong = u > shares[0]
    return np.where(wrong, 0.2 + 0.3 * (1 - u) / (1 - shares[0]), p)


def _draws(options: Options) -> Table:
    table = Table(
        "Smoothing: draws for a decision, beside 100,000 for each",
        ["inputs", "σ", "radius", "certified, 100,000 draws", "certified, anytime", "lost, points", "mean draws",
         "times fewer", "median"],
    )  # fmt: skip
    n = 2000 if options.quick else 10_000
    for sigma, radius in _ASKED:
        table.rows.append(_row("CIFAR-10 as published", published(sigma, n), sigma, radius))
    net, x, _ = wk17a()
    few = 60 if options.quick else 150
    counted = Smoothed(net, Gaussian(0.25)).certify(x[:few], estimator=Fixed(n=3000))
    p = (counted.hits.double() / 3000).clamp(0, 1 - 1e-5).numpy()
    for radius in (0.25, 0.5):
        table.rows.append(_row("MNIST WK17a, simulated", np.tile(p, 20), 0.25, radius))
        met = Smoothed(net, Gaussian(0.25)).certify(x[:few], radius=radius)
        mean = float(met.samples.double().mean())
        share = float(met.certified.double().mean())
        table.rows.append(
            ["MNIST WK17a, met", "0.25", f"{radius:g}", "", f"{share:.3f}", "", f"{mean:.0f}",
             f"{DRAWS / mean:.0f}", f"{float(met.samples.double().median()):.0f}"]
        )  # fmt: skip
        options.say(" | ".join(table.rows[-1]))
    table.notes.append(
        f"Risk {ALPHA}. {n} inputs; of WK17a the first {few}, whose probabilities are the shares of 3,000 draws. "
        "The 100 draws that choose the class come on top of both."
    )
    return table


def _row(name: str, p: np.ndarray, sigma: float, radius: float) -> list[str]:
    target = float(Gaussian(sigma).probability(torch.tensor([radius], dtype=torch.float64)))
    needed = int(least_hits(DRAWS, ALPHA, torch.tensor([target], dtype=torch.float64)))
    every = float((np.random.default_rng(1).binomial(DRAWS, p) >= needed).mean())
    ours = simulated(Anytime(most=DRAWS), p, target)
    mean = float(ours.taken.mean())
    return [
        name,
        f"{sigma:g}",
        f"{radius:g}",
        f"{every:.3f}",
        f"{ours.stated.mean():.3f}",
        f"{100 * (every - float(ours.stated.mean())):.2f}",
        f"{mean:.0f}",
        f"{DRAWS / mean:.0f}",
        f"{np.median(ours.taken):.0f}",
    ]


def _false(options: Options) -> Table:
    streams = 20_000 if options.quick else 100_000
    table = Table(
        "Smoothing: false statements",
        ["asked", "true probability", "false of streams", "share", f"≤ {ALPHA}"],
    )
    cases: list[tuple[str, Estimator, float, float | None]] = [
        (f"above {target:g}?", Anytime(most=DRAWS), p, target)
        for target, p in ((0.5, 0.5), (0.84, 0.84), (0.84, 0.839), (0.9772, 0.9772), (0.999, 0.999))
    ]
    cases += [
        ("how far? 10,000 draws", Anytime(most=10_000, tolerance=0.001), p, None) for p in (0.5, 0.7, 0.95)
    ]
    for place, (name, estimator, p, target) in enumerate(cases):
        found = simulated(estimator, np.full(streams, p), target, seed=place)
        wrong = int(found.stated.sum())
        met = "yes" if wrong <= ALPHA * streams else "**no**"
        table.rows.append([name, f"{p:g}", f"{wrong} of {streams}", f"{wrong / streams:.5f}", met])
        options.say(" | ".join(table.rows[-1]))
    table.notes.append(
        "Streams at the very border of what is asked, looked at after every 100 draws and then every 2 %. A bound "
        "counts as false if it was ever too high."
    )
    return table


def _throughput(options: Options) -> Table:
    table = Table(
        "Smoothing: draws a second of processor time, one thread",
        ["network", "how", "µs a draw", "times Hardpoint's", "MiB"],
    )
    few, draws = (4, 1000) if options.quick else (6, 1500)
    for name, (net, x, _) in {"WK17a": wk17a(), "LeNet5": lenet5("adv")}.items():
        some = x[:few]
        jobs: dict[str, Callable[[], object]] = {
            OURS: lambda net=net, x=some: hardpoint_counts(net, x, draws),
            f"{OURS}, one input at a time": lambda net=net, x=some: [
                hardpoint_counts(net, one.unsqueeze(0), draws) for one in x
            ],
            "textbook, batches of 1,000": lambda net=net, x=some: textbook_counts(net, x, draws, 1000),
            "textbook, batches of 100": lambda net=net, x=some: textbook_counts(net, x, draws, 100),
        }
        peer = _art(net, x)
        if peer is not None:
            jobs["ART, its batches of 32"] = lambda peer=peer, x=some: [peer(one, draws) for one in x]
        times = interleaved(jobs, options.repeats, options.device)
        ours = median(times[OURS].processor)
        for how, job in jobs.items():
            taken, held = median(times[how].processor), peak_memory(job, options.device)
            memory = "" if held is None else f"{held:.0f}"
            table.rows.append([name, how, f"{1e6 * taken / few / draws:.1f}", f"{taken / ours:.2f}", memory])
            options.say(" | ".join(table.rows[-1]))
    table.notes.append(
        f"{few} MNIST images with {draws} draws each, σ 0.25; the median of interleaved repeats. The textbook is the "
        "loop of Cohen et al. (2019), whose batches are of 1,000. How much there is to gain depends on the network: of "
        "WK17a's time nine tenths are its own arithmetic, which is the same for all."
    )
    return table


def hardpoint_counts(net: nn.Module, x: Tensor, draws: int) -> Tensor:
    """How often the first class comes for each input."""
    y = torch.zeros(len(x), dtype=torch.int64)
    return Smoothed(net, Gaussian(0.25)).certify(x, y, estimator=Fixed(n=draws)).hits


@torch.no_grad()
def textbook_counts(net: nn.Module, x: Tensor, draws: int, batch: int) -> list[np.ndarray]:
    """The counting loop of Cohen et al. 2019, written from its description: an input at a time, fresh noise for each
    batch, a count for each answer."""
    found = []
    for one in x:
        counts = np.zeros(10, dtype=int)
        for _ in range(math.ceil(draws / batch)):
            copies = one.repeat((batch, 1, 1, 1))
            answers = net(copies + torch.randn_like(copies) * 0.25).argmax(1)
            for answer in answers.cpu().numpy():
                counts[answer] += 1
        found.append(counts)
    return found


def _art(net: nn.Module, x: Tensor) -> Callable[[Tensor, int], object] | None:
    """What ART's ``certify`` counts with; None where it is not installed.

    Not ``certify`` itself: it needs statsmodels for its last line, which takes no time.
    """
    try:
        from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing
    except ImportError:
        return None
    smoothed = PyTorchRandomizedSmoothing(
        net,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(x.shape[1:]),
        nb_classes=10,
        clip_values=(0.0, 1.0),
        device_type="cpu",
        scale=0.25,
        sample_size=100,
    )
    return lambda one, draws: smoothed._prediction_counts(one.numpy(), n=draws, batch_size=32)
