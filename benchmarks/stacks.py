"""Ten defences: does the automatic attacker who knows them do as well as one written by hand for each?

Naive is what stands against examples made for the undefended network, adaptive what ``hp.assess`` leaves without any
setting, by hand what a long attack leaves that was told how to cross each stage. ``STACKS_OF`` names the data, of those
in ``SETTINGS``; ``STACKS`` some of the stacks, with ; between them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

import hardpoint as hp
from benchmarks import models
from benchmarks.measure import Options, Table
from hardpoint.core.rows import per_row
from hardpoint.defenses import (
    AdditiveNoise,
    BitDepth,
    GaussianSmoothing,
    GradientMasking,
    JpegCompression,
    MedianSmoothing,
    PcaProjection,
    RandomResizePad,
)

SETTINGS: dict[str, tuple[str, Callable[[], tuple[nn.Module, Tensor, Tensor]], float]] = {
    "digits": ("the plain digits network", lambda: models.digits("plain"), 0.1),
    "mnist": ("the plain LeNet5 on MNIST", lambda: models.lenet5("clean"), 0.2),
}
"""By name: in words, what gives network and test inputs, and the radius in Linf."""
_STEPS, _DRAWS, _VOTES, _FRESH = 200, 16, 33, 1001


@dataclass(frozen=True)
class Crossing:
    """A stage, and what a person who attacks it by hand differentiates instead: the identity or the stage itself."""

    stage: object
    straight: bool
    random: bool = False

    def shown(self, x: Tensor) -> Tensor:
        """What the network sees."""
        apply: Callable[[Tensor], Tensor] = getattr(self.stage, "apply", self.stage)  # type: ignore[arg-type]
        if not self.straight:
            return apply(x)
        return x + (apply(x.detach()) - x).detach()


def levels(x: Tensor) -> Tensor:
    """Four shades: a stage of the user's own that says nothing of its gradient."""
    return (x * 3).round() / 3


def flipped_bits(x: Tensor) -> Tensor:
    """A random threshold for each pixel, around which it is rounded to eight shades."""
    return ((x * 7 + torch.rand_like(x) - 0.5).round() / 7).clamp(0, 1)


def stacks(x: Tensor) -> dict[str, tuple[Crossing, ...]]:
    """Ten stacks; seven cannot be differentiated or draw."""
    straight, plain = partial(Crossing, straight=True), partial(Crossing, straight=False)
    drawn = partial(Crossing, straight=False, random=True)
    return {
        "bit depth 3": (straight(BitDepth(bits=3)),),
        "JPEG 50": (straight(JpegCompression(quality=50)),),
        "median 3": (plain(MedianSmoothing(size=3)),),
        "Gaussian 1": (plain(GaussianSmoothing(1.0)),),
        "PCA 90 %": (plain(PcaProjection.fit(x, 0.9)),),
        "gradient masking": (straight(GradientMasking()),),
        "own rounding": (straight(levels),),
        "own random rounding": (straight(flipped_bits, random=True),),
        "noise 0.1, resize and pad": (drawn(AdditiveNoise(0.1)), drawn(RandomResizePad(0.9, 1.0))),
        "median, JPEG, bit depth 4, noise": (
            plain(MedianSmoothing(size=3)),
            straight(JpegCompression(quality=60)),
            straight(BitDepth(bits=4)),
            drawn(AdditiveNoise(0.05)),
        ),
    }


def run(options: Options) -> list[Table]:
    """A table per data set."""
    wanted = os.environ.get("STACKS_OF", "digits").split(",")
    unknown = set(wanted) - set(SETTINGS)
    if unknown:
        raise SystemExit(f"STACKS_OF={','.join(sorted(unknown))} is unknown: use {', '.join(SETTINGS)}")
    return [_measured(*SETTINGS[name], options) for name in wanted]


def _measured(
    words: str, load: Callable[[], tuple[nn.Module, Tensor, Tensor]], eps: float, options: Options
) -> Table:
    network, x, y = load()
    n = 60 if options.quick else 300
    benign, x, y = x[n : n + 2000], x[:n], y[:n]
    alone = hp.assess(network, x, y, threat=hp.Linf(eps), progress=False)
    table = Table(
        f"Ten defences of {words}",
        ["defence", "clean", "naive", "adaptive", "by hand", "naive - adaptive", "adaptive - by hand"],
    )
    wanted = os.environ.get("STACKS")
    for name, parts in stacks(benign).items():
        if wanted and name not in wanted.split(";"):
            continue
        model = hp.Defended(network, [part.stage for part in parts])
        found = hp.ablate(model, x, y, threat=hp.Linf(eps), progress=False).whole
        hand = _by_hand(network, parts, x, y, eps)
        values = [found.clean.value, found.naive.value, found.adaptive.value, hand]
        gaps = [found.naive.value - found.adaptive.value, found.adaptive.value - hand]
        options.say(f"{name}: naive, adaptive, by hand {values[1:]}")
        table.rows.append([name, *(f"{100 * v:.1f} %" for v in values), *(f"{100 * g:+.1f}" for g in gaps)])
    table.notes.append(
        f"{n} test images, Linf {eps}; undefended {alone.robust_accuracy}. By hand: {_STEPS} steps of descent on the "
        f"margin from two starts, {_DRAWS} draws averaged where the defence draws; judged by the majority of {_FRESH} "
        "fresh ones."
    )
    return table


def _by_hand(network: nn.Module, parts: tuple[Crossing, ...], x: Tensor, y: Tensor, eps: float) -> float:
    """The share of inputs that a long descent leaves standing.

    Where the defence draws, the point that most votes are wrong at is judged by fresh ones: of many looks at a point
    near the boundary some are wrong by chance.
    """
    draws = any(part.random for part in parts)

    def scores(z: Tensor) -> Tensor:
        for part in parts:
            z = part.shown(z)
        return network(z)

    def wrong(z: Tensor, votes: int) -> Tensor:
        with torch.no_grad():
            rounds = range(votes if draws else 1)
            return torch.stack([(scores(z).argmax(1) != y).double() for _ in rounds]).mean(0)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        worst, most = x.clone(), wrong(x, _VOTES)
        for _ in range(2):
            z = (x + eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
            for step in range(_STEPS):
                z.requires_grad_()
                loss = torch.stack([_margin(scores(z), y) for _ in range(_DRAWS if draws else 1)]).mean(0)
                (slope,) = torch.autograd.grad(loss.sum(), z)
                length = 2 * eps * (1 - step / _STEPS) / 4
                z = torch.clamp(z.detach() + length * slope.sign(), x - eps, x + eps).clamp(0, 1)
                if step % 20 == 19:
                    share = wrong(z, _VOTES)
                    worst = torch.where(per_row(share > most, z), z, worst)
                    most = torch.maximum(share, most)
        return float((wrong(worst, _FRESH) <= 0.5).double().mean())


def _margin(scores: Tensor, y: Tensor) -> Tensor:
    own = scores.gather(1, y[:, None])[:, 0]
    return scores.scatter(1, y[:, None], -torch.inf).amax(1) - own
