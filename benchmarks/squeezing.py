"""Feature squeezing: the published detection rates, and what is left of them against someone who knows it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import hardpoint as hp
from benchmarks.measure import Options, Table
from benchmarks.mnist_network import accuracy, carlini_wagner
from benchmarks.models import mnist
from hardpoint.attacks import FMN, CarliniWagner, SigmaZero
from hardpoint.attacks.base import StandaloneAttack
from hardpoint.defenses import Alarm, BitDepth, MedianSmoothing, calibrated
from hardpoint.defenses.defended import DefendedModel, defended_network
from hardpoint.defenses.detectors import FeatureSqueezing
from hardpoint.models.torch import TorchModel

SQUEEZERS = (BitDepth(1), MedianSmoothing(2))
NEXT, LEAST = "next class", "least likely class"
PUBLISHED = {
    ("FGSM", ""): 1.0,
    ("BIM", ""): 0.979,
    ("CW∞", NEXT): 1.0,
    ("CW∞", LEAST): 1.0,
    ("CW2", NEXT): 1.0,
    ("CW2", LEAST): 1.0,
    ("CW0", NEXT): 0.911,
    ("CW0", LEAST): 0.938,
}
"""Feature squeezing with one bit and a 2×2 median on MNIST (Xu, Evans and Qi, NDSS 2018, table IV), of the examples
that lead the model astray; in all 98.2 %, with false alarms below 5 %."""
LEADS = (0.0, 10.0)
"""By how much the wanted class leads in targeted examples: theirs do by 10, which is much or little as scores go."""

_KNOWING = 25
"""Images that an attacker who knows the detector is given."""


class Reluctant(nn.Module):
    """Gives one class ``lead`` less, so that where it wins, it leads by that much in the network behind."""

    def __init__(self, net: nn.Module, label: int, lead: float) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("less", lead * nn.functional.one_hot(torch.tensor(label), 10).float())

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) - self.less


@dataclass(frozen=True)
class Shown:
    """Examples of one attack, and their distances."""

    made: str
    examples: Tensor
    distance: Tensor


def published(options: Options) -> list[Table]:
    """Detection of the attacks of Xu, Evans and Qi that are here, and of attackers who know the detector."""
    inputs = 20 if options.quick else 100
    net = carlini_wagner(epochs=1 if options.quick else 6)
    x, y = mnist()
    with torch.no_grad():
        right = torch.cat([net(part).argmax(1) for part in x.split(500)]) == y
    rows = right.nonzero().flatten()[:inputs]
    others = torch.ones(len(x), dtype=torch.bool).index_fill(0, rows, False).nonzero().flatten()
    benign = x[others[torch.randperm(len(others), generator=torch.Generator().manual_seed(0))]]
    x, y, detector = x[rows], y[rows], FeatureSqueezing(SQUEEZERS)
    model = calibrated(hp.Defended(net), [detector], benign[:5000], alpha=0.05)
    made = {
        (name, aim, lead): _attacked(net, x, y, name, aim, lead)
        for name, aim in PUBLISHED
        for lead in (LEADS if aim else LEADS[:1])
    }
    options.say("the examples are made; now attackers who know the detector")
    knowing = {}
    for name, ball in {"BIM": hp.Linf, "CW∞": hp.Linf, "CW2": hp.L2, "CW0": hp.L0}.items():
        reach = max(
            float(s.distance.max()) for (n, _, lead), s in made.items() if n == name and lead == LEADS[0]
        )
        few = x[:_KNOWING], y[:_KNOWING]
        knowing[name] = _adaptive(net, model.alarms, *few, ball(_rounded_up(reach)), options)
        options.say(f"{name}: {knowing[name]} stand")
    table = Table(
        f"Feature squeezing on MNIST, one bit and a 2×2 median, {inputs} images",
        ["attack", "as", "distance", "led astray", "published", "detected", "within 5 points", "adaptive"],
    )
    for (name, aim, _), shown in made.items():
        rate = PUBLISHED[name, aim]
        with torch.no_grad():
            astray = net(shown.examples).argmax(1) != y
        caught = _refused(model, shown.examples[astray])
        near = "yes" if abs(caught - rate) <= 0.05 else "no"
        cells = [
            f"{name} {aim}".strip(),
            shown.made,
            f"{float(shown.distance.mean()):.3g}",
            f"{int(astray.sum())}",
        ]
        table.rows.append([*cells, f"{rate:.1%}", f"{caught:.1%}", near, knowing.get(name, knowing["BIM"])])
    table.notes.append(
        f"{accuracy(net, *mnist()):.2%} of the test images right; {_refused(model, benign[5000:]):.1%} of "
        f"{len(benign) - 5000:,} benign ones refused that calibrated nothing. Adaptive: of the first {_KNOWING} "
        "inputs, those that an attack without the detector breaks and that stand with it, untargeted, in the smallest "
        "budget that holds the examples of that kind which lead by nothing."
    )
    return [table]


def _refused(model: DefendedModel, x: Tensor) -> float:
    labels = torch.cat([model.predict(part) for part in x.split(500)])
    return float(labels.eq(10).double().mean())


def _adaptive(
    net: nn.Module,
    alarms: tuple[Alarm, ...],
    x: Tensor,
    y: Tensor,
    budget: hp.threats.Perturbation,
    options: Options,
) -> str:
    """As ``hp.tune`` measures it, with this threshold."""
    settings = {"progress": False, "budget": hp.Budget(passes=300) if options.quick else None}
    alone = hp.assess(net, x, y, threat=budget, **settings)
    knowing = hp.assess(defended_network(TorchModel(net), (), alarms), x, y, threat=budget, **settings)
    astray = alone.broken
    standing = int((~knowing.broken & astray).sum())
    return f"{standing / max(1, int(astray.sum())):.1%} ({budget.name})"


def _attacked(net: nn.Module, x: Tensor, y: Tensor, name: str, aim: str, lead: float) -> Shown:
    whole = torch.tensor([0.3])
    if name == "FGSM":
        return Shown("one step of 0.3", hp.attacks.FGSM()(net, x, y, hp.Linf(0.3)).adversarial, whole)
    if name == "BIM":
        return Shown("10 steps of 0.06, ε = 0.3", _bim(net, x, y), whole)
    attacks: dict[str, tuple[str, StandaloneAttack, hp.threats.Perturbation]] = {
        "CW∞": ("FMN", FMN(steps=200), hp.Linf(math.inf)),
        "CW2": ("Carlini-Wagner", CarliniWagner(search_steps=6), hp.L2(math.inf)),
        "CW0": ("sigma-zero", SigmaZero(steps=300), hp.L0(math.inf)),
    }
    made, attack, anywhere = attacks[name]
    with torch.no_grad():
        wanted = (y + 1) % 10 if aim == NEXT else net(x).argmin(1)
    examples, distance = x.clone(), torch.zeros(len(x), dtype=torch.float64)
    for label in wanted.unique().tolist():
        at = (wanted == label).nonzero().flatten()
        threat = hp.Threat(anywhere, hp.Targeted(label), "gradients")
        found = attack(Reluctant(net, label, lead).eval(), x[at], y[at], threat)
        examples[at], distance[at] = found.adversarial, found.distance
    return Shown(f"{made}, leading by {lead:g}", examples, distance[distance.isfinite()])


def _rounded_up(distance: float) -> float:
    return distance if distance.is_integer() else min(math.ceil(1000 * distance) / 1000, 1e3)


def _bim(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The basic iterative method as published: to its last step, where the engine's attacks stop at success."""
    point = x
    for _ in range(10):
        point = point.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(nn.functional.cross_entropy(net(point), y, reduction="sum"), point)
        point = (point + 0.06 * slope.sign()).clamp(x - 0.3, x + 0.3).clamp(0, 1)
    return point.detach()
