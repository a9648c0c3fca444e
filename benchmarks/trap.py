"""A model whose only adversarial inputs lie on the attack's way and not at its end.

The gradient leads each input straight through a narrow region where the model errs and out again. An attack that
returns its last iterate, or the one of the largest loss without looking at the label, comes back empty-handed; one
that keeps what it has seen does not.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import hardpoint as hp
from benchmarks.measure import Options, Table
from benchmarks.peers import PGD, Job, art_classifier

EPS, STEP, STEPS = 0.2, 0.01, 20
_POCKETS = (0.045, 0.085, 0.125, 0.165)


class Trap(nn.Module):
    """Two inputs in [0, 1]. The first is climbed; between ``low`` and ``low + 0.01`` above its start class 2 wins.

    The start is 0.3 and the second input picks the pocket, so that every test input has its own.
    """

    def forward(self, x: Tensor) -> Tensor:
        climbed, which = x.flatten(1)[:, 0] - 0.3, x.flatten(1)[:, 1]
        pocket = torch.zeros_like(climbed)
        for place, low in enumerate(_POCKETS):
            inside = (
                (climbed > low)
                & (climbed < low + 0.01)
                & ((which - _second(place)).abs() < 0.001 + EPS / 100)
            )
            pocket = pocket + inside.float()
        right, other = torch.zeros_like(climbed), 4 * climbed - 2  # right by at least 1.2 all over the ball
        return torch.stack([right, other, 8 * pocket - 4], dim=1)


def run(options: Options) -> list[Table]:
    """One table."""
    model = Trap().to(options.device)
    x = torch.tensor([[0.3, _second(place)] for place in range(4)], device=options.device).view(4, 1, 1, 2)
    y = torch.zeros(4, dtype=torch.int64, device=options.device)
    table = Table("The trap", ["attack", "found of 4"])
    for name, attack in _attacks(model, x, y).items():
        examples = attack()
        with torch.no_grad():
            broken = model(examples).argmax(1) != y
        inside = (examples.double() - x.double()).abs().flatten(1).amax(1) <= EPS + 1e-6
        table.rows.append([name, str(int((broken & inside).sum()))])
    table.notes.append(
        f"Linf {EPS}, step {STEP}, {STEPS} steps, no random start; judged by the model's own forward pass."
    )
    return [table]


def _attacks(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Callable[[], Tensor]]:
    job = Job(model, x, y, EPS, STEP, False, batch=4, steps=STEPS)
    attacks: dict[str, Callable[[], Tensor]] = {
        f"{tool} PGD": lambda run=run: run(job)  # type: ignore[misc]
        for tool, run in PGD.items()
    }

    def assessed() -> Tensor:
        return hp.assess(model, x, y, threat=hp.Linf(EPS), progress=False).adversarial

    def torchattacks_apgd() -> Tensor:
        import torchattacks

        return torchattacks.APGD(model, eps=EPS, steps=STEPS)(x, y)

    def art_apgd() -> Tensor:
        from art.attacks.evasion import AutoProjectedGradientDescent

        attack = AutoProjectedGradientDescent(
            art_classifier(model, x),
            eps=EPS,
            eps_step=STEP,
            max_iter=STEPS,
            nb_random_init=1,
            verbose=False,
        )
        return torch.from_numpy(attack.generate(x.cpu().numpy(), y.cpu().numpy())).to(x.device)

    attacks["Hardpoint assess, mode fast"] = assessed
    attacks["torchattacks APGD"] = torchattacks_apgd
    attacks["ART APGD"] = art_apgd
    return attacks


def _second(place: int) -> float:
    return 0.2 + 0.2 * place
