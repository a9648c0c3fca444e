"""The binarisation test: an attack that does not find what was planted cannot be trusted where it finds nothing.

Zimmermann et al., "Increasing confidence in adversarial robustness evaluations" (NeurIPS 2022).

Around an input, many points inside the budget are called class 0 and one point on its edge class 1. A linear head on
the model's own last features is fitted to tell them apart. Whatever precedes the features is what the attack has to
get through; that there is something to find is certain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hardpoint.assess.panel.pilot import Pilot, not_run, spread
from hardpoint.core.errors import HardpointError
from hardpoint.core.rng import Rng
from hardpoint.core.rows import chunks
from hardpoint.engine.bpda import crossed
from hardpoint.engine.search import Target, search
from hardpoint.engine.twin import TwinPlan
from hardpoint.evidence.assessment import Check, Verdict
from hardpoint.evidence.rate import Rate
from hardpoint.models import TorchModel
from hardpoint.models.base import Differentiable
from hardpoint.threats.goals import Untargeted
from hardpoint.threats.perturbation import Perturbation, Region
from hardpoint.threats.threat import Threat

_INPUTS = 20
_INNER = 96
_INSIDE = 0.95  # of the budget, for points of class 0
_RANDOM = 100
_LIMIT = 0.75
"""Trained networks measured 0.92 to 1, small random ones from 0.6, shattered gradients 0.4 (docs/panel.md). The paper
asks for 0.95 of its own, longer attacks. A rate that might be above the limit passes."""


def binarisation(pilot: Pilot) -> Check:
    """The share of planted examples that a short attack finds; the search itself has longer ones."""
    id, name = "HP316", "Planted examples are found"
    session = pilot.session
    model = session.target.model
    if not isinstance(model, Differentiable) or session.target.is_random:
        return not_run(id, name, _LIMIT, "it needs a module whose answers do not vary")
    module = (
        crossed(model.module, dict(session.target.twin.crossed))
        if session.target.twin.copied
        else model.module
    )
    layer = last_linear(module, pilot.x[:2])
    if layer is None:
        return not_run(id, name, _LIMIT, "the model does not end in a linear layer")
    rng = Rng(session.seed).fork("binarisation")
    planted = found = lucky = 0
    for row in spread(len(pilot.x), _INPUTS).tolist():
        task = _planted(pilot, row, module, layer, rng)
        if task is None:
            continue
        planted += 1
        lucky += task.luck(rng.fork("luck"))
        found += task.falls_to(pilot, rng.fork("attack"))
    if planted < _INPUTS // 3:
        return not_run(id, name, _LIMIT, f"the last features tell only {planted} planted examples apart")
    if lucky > planted / 2:
        return not_run(
            id, name, _LIMIT, f"random points find {lucky} of {planted} too, which leaves nothing to test"
        )
    rate = Rate.of(found, planted)
    return Check(
        id,
        name,
        rate.value,
        _LIMIT,
        Verdict.PASS if rate.high >= _LIMIT else Verdict.WARN,
        f"{pilot.arsenal.quick.name} found {found} of {planted} planted examples (up to "
        f"{100 * rate.high:.0f} % would with more inputs), random points {lucky}",
    )


@dataclass(frozen=True)
class _Planted:
    """One input with a head that a point within the budget crosses; ``model`` answers 0 at the input."""

    model: TorchModel
    perturbation: Perturbation
    x: Tensor  # [1, ...]
    index: Tensor

    def luck(self, rng: Rng) -> bool:
        """Whether random allowed points find an example."""
        many, draws = self.x.expand(_RANDOM, *self.x.shape[1:]), torch.arange(_RANDOM, device=self.x.device)
        points = self.perturbation.around(many, self.model.box).sample(rng, self.index.expand(_RANDOM), draws)
        return any(bool((self.model.predict(part) == 1).any()) for part in chunks(points, _RANDOM // 2))

    def falls_to(self, pilot: Pilot, rng: Rng) -> bool:
        """Whether the short attack finds one."""
        zero = torch.zeros_like(self.index)
        target = Target(self.model, TwinPlan(copied=False), capacity=1)
        found = search(
            pilot.arsenal.quick,
            target,
            target.searchable(),
            Threat(self.perturbation, goal=Untargeted()),
            self.x,
            zero,
            self.index,
            torch.tensor([[0, 1]], device=self.x.device),
            rng=rng,
            deadline=pilot.session.deadline,
        )
        return bool(found.broken)


def _planted(pilot: Pilot, row: int, module: nn.Module, layer: nn.Module, rng: Rng) -> _Planted | None:
    """The task for one input, or None where a linear head cannot tell the planted point apart."""
    perturbation, box = pilot.session.threat.perturbation, pilot.session.target.model.box
    x, at = pilot.x[row : row + 1], torch.from_numpy(pilot.index[row : row + 1]).to(pilot.x.device)
    many = x.expand(_INNER, *x.shape[1:])
    draws = torch.arange(_INNER, device=x.device)
    index = at.expand(_INNER)
    inner = perturbation.scaled(_INSIDE).around(many, box).sample(rng.fork("inner"), index, draws)
    edge = _edge(perturbation.around(x, box), rng.fork("edge"), at)
    with torch.no_grad():
        features = _features(module, layer, torch.cat([x, inner, edge]), pilot.session.target.capacity)
    head = _separating(features[:-1], features[-1])
    if head is None:
        return None
    planted = _WithHead(module, layer, *head)
    planted.training = False  # eval() would reach into the model itself
    model = TorchModel(planted, box, name="planted")
    answers = model.predict(torch.cat([x, edge])).tolist()
    return _Planted(model, perturbation, x, at) if answers == [0, 1] else None


def _edge(region: Region, rng: Rng, index: Tensor) -> Tensor:
    """A random point at the edge of the budget: from the middle through a random allowed one, as far as may be."""
    far = region.sample(rng, index)
    return region.project(region.x + 1e3 * (far - region.x))


def _separating(zeros: Tensor, one: Tensor) -> tuple[Tensor, Tensor] | None:
    """Weights and bias of a line between the features ``zeros`` ``[m, d]`` and the feature ``one``, in the middle of
    the gap; None where the regularised discriminant does not separate them."""
    inner, point = zeros.double(), one.double()
    mean = inner.mean(0)
    spread_of = inner - mean
    # (S + λI)⁻¹ v through the smaller of the two Gram matrices; λ follows the scale of the features
    gram = spread_of @ spread_of.T
    ridge = 1e-6 * float(gram.diagonal().mean()) + 1e-30
    way = point - mean
    inside = torch.linalg.solve(gram + ridge * torch.eye(len(gram)).to(gram), spread_of @ way)
    weight = way - spread_of.T @ inside
    length = float(weight.norm())
    if length <= 1e-9 * float(point.norm() + 1e-30):
        return None
    weight = weight / length
    reached, most = float(weight @ point), float((inner @ weight).max())
    if not reached > most:
        return None
    scale = 1.0 / (
        reached - most
    )  # the planted point has a lead of a half, whatever the scale of the features
    return (scale * weight).to(one.dtype), torch.tensor(-scale * (reached + most) / 2).to(one)


class _WithHead(nn.Module):
    """Features of ``module`` (what its ``layer`` is given) under a linear head of two classes."""

    def __init__(self, module: nn.Module, layer: nn.Module, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.module, self.layer = module, [layer]  # in a list, so that it is no child twice
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        score = _seen(self.module, self.layer[0], x) @ self.weight + self.bias
        return torch.stack([-score, score], dim=1)


def _features(module: nn.Module, layer: nn.Module, x: Tensor, chunk: int) -> Tensor:
    return torch.cat([_seen(module, layer, part) for part in chunks(x, chunk)])


def _seen(module: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
    """What ``layer`` is given when ``module`` answers ``x``, ``[n, d]``."""
    kept: list[Tensor] = []
    with _hooked(layer, lambda given: kept.append(given)):
        module(x)
    return kept[-1].flatten(1)


@contextmanager
def _hooked(layer: nn.Module, keep: Callable[[Tensor], Any]) -> Iterator[None]:
    def hook(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        keep(given[0] if given else named["input"])

    handle = layer.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def last_linear(module: nn.Module, x: Tensor) -> nn.Module | None:
    """The linear layer that is called last and once, on one row of features per input; None if there is none.

    >>> last_linear(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).eval(), torch.zeros(2, 2))
    Linear(in_features=3, out_features=2, bias=True)
    """
    called: list[tuple[nn.Module, tuple[int, ...]]] = []

    def note(layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        called.append((layer, tuple((given[0] if given else named["input"]).shape)))

    handles = [
        part.register_forward_pre_hook(note, with_kwargs=True)
        for part in module.modules()
        if isinstance(part, nn.Linear)
    ]
    try:
        with torch.no_grad():
            module(x)
    except HardpointError:
        return None
    finally:
        for handle in handles:
            handle.remove()
    if not called or sum(layer is called[-1][0] for layer, _ in called) != 1:
        return None
    layer, shape = called[-1]
    return layer if len(shape) == 2 and shape[0] == len(x) else None
