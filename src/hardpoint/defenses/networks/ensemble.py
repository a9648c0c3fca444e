"""Several networks that answer together, as one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hardpoint.core.access import Access
from hardpoint.core.box import Box
from hardpoint.core.errors import AccessDenied, BadModelOutput, ModelError
from hardpoint.core.rows import chunks
from hardpoint.defenses.networks.combine import Combine, MeanProbability, WeightedMean
from hardpoint.engine.guard import preserved_random_state
from hardpoint.models.base import Differentiable, Model, refusal_of
from hardpoint.models.loading import load_model
from hardpoint.models.torch import TorchModel, weights_sha256

_CHUNK = 256
_ENOUGH = 16  # inputs from which on scores that all sum to 1 are taken for probabilities


class EnsembleModule(nn.Module):
    """The members side by side on the same inputs, and what combines their scores."""

    def __init__(self, models: Sequence[Differentiable], combine: Combine) -> None:
        super().__init__()
        self.members = nn.ModuleList(model.module for model in models)
        self.combine = combine
        self._reads = tuple(model.module_scores for model in models)
        self.training = any(member.training for member in self.members)

    def forward(self, x: Tensor) -> Tensor:
        return self.combine.combined(self.member_scores(x))

    def member_scores(self, x: Tensor) -> Tensor:
        """``[m, n, K]``: what each member says."""
        said = [read(member(x)) for member, read in zip(self.members, self._reads, strict=True)]
        if len({scores.shape[1:] for scores in said}) > 1:
            widths = ", ".join(str(scores.shape[1]) for scores in said)
            raise ModelError(
                f"the members give {widths} scores per input", "give members that know the same classes"
            )
        return torch.stack(said)


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Several networks as one model: assessed, defended, calibrated or combined further like any other.

    What is attacked is the whole, and gradients reach every member. More members are no defence by themselves: what
    leads one astray mostly leads the others astray too (He, Wei, Chen, Carlini and Song, "Adversarial example defenses:
    ensembles of weak defenses are not strong", WOOT 2017); ``train_members`` trains them to differ.

    Args:
        members: two or more torch modules in evaluation mode, or models with a module. They may differ in architecture,
            not in classes, input range, device or precision. A random member makes the whole random; one that
            refuses inputs cannot be taken: put detectors behind the whole.
        combine: ``MeanProbability()``, ``MeanLogits()``, ``WeightedMean(...)``, ``MajorityVote()`` or your own rule.
        name: shown in reports.

    Raises:
        ModelError: for members that cannot answer together.

    >>> members = [nn.Linear(4, 3).eval(), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()]
    >>> Ensemble(members).scores(torch.rand(2, 4)).shape
    torch.Size([2, 3])
    """

    members: Sequence[Any]
    combine: Combine = MeanProbability()  # noqa: RUF009  (frozen, and holds nothing)
    name: str | None = None
    module: EnsembleModule = field(init=False)

    def __post_init__(self) -> None:
        given: Any = self.members
        if isinstance(given, str | nn.Module | Model) and not isinstance(given, nn.ModuleList):
            raise ModelError(f"members is one {type(given).__name__}", "give a list of two or more")
        loaded = [load_model(member) for member in given]
        models = tuple(_fitting(place, model, loaded[0]) for place, model in enumerate(loaded))
        if len(models) < 2:
            raise ModelError(f"there are {len(models)} members", "give two or more")
        if not isinstance(self.combine, Combine) or isinstance(self.combine, type):
            raise ModelError(f"{self.combine!r} combines nothing", "give a rule, such as MeanProbability()")
        if isinstance(self.combine, WeightedMean) and len(self.combine.weights) != len(models):
            raise ModelError(
                f"there are {len(self.combine.weights)} weights for {len(models)} members",
                "give one for each",
            )
        object.__setattr__(self, "members", models)
        object.__setattr__(self, "module", EnsembleModule(models, self.combine))

    @property
    def access(self) -> Access:
        """The least that a member offers."""
        offered: Access = min(member.access for member in self.members)
        return offered

    @property
    def box(self) -> Box:
        """As the members'."""
        box: Box = self.members[0].box
        return box

    @property
    def device(self) -> torch.device:
        """Where the members compute."""
        return _device(self.members[0])

    def module_scores(self, output: Any) -> Tensor:
        scores: Tensor = output
        return scores

    def member_scores(self, x: Tensor) -> Tensor:
        """``[m, n, K]``: what each member says of ``x`` ``[n, ...]``, in batches; no gradients, random state kept."""
        with torch.no_grad(), preserved_random_state():
            parts = [self.module.member_scores(part.to(self.device)) for part in chunks(x, _CHUNK)]
        return torch.cat(parts, dim=1).to(x.device)

    def scores(self, x: Tensor) -> Tensor:
        if self.access < Access.SCORES:
            raise AccessDenied("a member offers labels only", 'use a threat with access="labels"')
        with torch.no_grad():
            said = self.module.member_scores(x.to(self.device))
            self._refuse_probabilities(said)
            return self.combine.combined(said).to(x.device)

    def predict(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            answers: Tensor = self.module(x.to(self.device)).argmax(1)
        return answers.to(x.device)

    def describe(self) -> dict[str, Any]:
        members = [member.describe() for member in self.members]
        names = ", ".join(str(member.get("name")) for member in members)
        return {
            "kind": "ensemble",
            "name": self.name or f"Ensemble of {names}",
            "sha256": weights_sha256(self.module),
            "parameters": sum(p.numel() for p in self.module.parameters()),
            "input_range": self.box.describe(),
            "combine": self.combine.describe(),
            "members": members,
        }

    def _refuse_probabilities(self, said: Tensor) -> None:
        """A probability taken for a score would be combined as if the member knew almost nothing."""
        if said.shape[1] < _ENOUGH:
            return
        sums_to_one = ((said.sum(2) - 1).abs() < 1e-3).all(1) & (said >= 0).flatten(1).all(1)
        for place in sums_to_one.nonzero().flatten().tolist():
            if isinstance(self.members[place], TorchModel):
                raise BadModelOutput(
                    f"member {place} returns probabilities",
                    "give hardpoint.models.TorchModel(module, probabilities=True)",
                )


def _fitting(place: int, model: Model, first: Model) -> Differentiable:
    """``model``; raises ``ModelError`` where it cannot answer together with the first."""
    if not isinstance(model, Differentiable):
        raise ModelError(f"member {place} shows answers only", "give torch modules, or models that have one")
    if refusal_of(model) is not None:
        raise ModelError(
            f"member {place} refuses inputs",
            "make the ensemble of the networks, and calibrate detectors for hp.Defended(Ensemble([...]))",
        )
    if not _same_box(model.box, first.box):
        raise ModelError(
            f"member {place} takes inputs in {model.box.describe()}, member 0 in {first.box.describe()}",
            "give members of one input range",
        )
    if _device(model) != _device(first):
        raise ModelError(
            f"member {place} is on {_device(model)}, member 0 on {_device(first)}", "move them to one device"
        )
    if isinstance(first, Differentiable) and len(_dtypes(model) | _dtypes(first)) > 1:
        raise ModelError(
            f"members 0 and {place} compute in different precisions", "convert them to one, with .to(dtype)"
        )
    return model


def _same_box(box: Box, other: Box) -> bool:
    ends = ((box.low, other.low), (box.high, other.high))
    try:
        return all(bool((torch.as_tensor(a) == torch.as_tensor(b)).all()) for a, b in ends)
    except RuntimeError:  # of shapes that do not broadcast
        return False


def _device(model: Model) -> torch.device:
    device = getattr(model, "device", None)
    return device if isinstance(device, torch.device) else torch.device("cpu")


def _dtypes(model: Differentiable) -> set[torch.dtype]:
    return {p.dtype for p in model.module.parameters() if p.is_floating_point()}
