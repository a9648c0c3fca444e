"""What ``harden`` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from hardpoint.assess.result import Result
from hardpoint.defenses.transforms import DenoisingAutoencoder
from hardpoint.evidence.rate import Rate
from hardpoint.evidence.store import write_atomically
from hardpoint.evidence.training import Epoch, best_epoch
from hardpoint.harden.before_after import BeforeAfter
from hardpoint.harden.cost import Cost
from hardpoint.models.weights import weights_content
from hardpoint.report.before_after import standing_under_all


@dataclass(frozen=True, eq=False)
class HardenResult:
    """A network after robust training, and what it is worth.

    Attributes:
        model: the network in evaluation mode, of the kind that was given; the one given is unchanged. Where a
            denoiser was trained, a ``Denoised`` network.
        history: what happened, epoch by epoch.
        recipe: what was trained with, in words.
        cost: what it cost, as measured before it began.
        denoiser: what was trained, for ``hp.Defended``, where that is a denoiser and the network is as it was.
        by_threat: assessments before and after on the same test inputs, by the name of the threat, in the order in
            which the threats were given; empty without test inputs.
    """

    model: Any
    history: tuple[Epoch, ...]
    recipe: str
    cost: Cost
    denoiser: DenoisingAutoencoder | None = None
    by_threat: Mapping[str, BeforeAfter] = field(default_factory=dict)

    @property
    def before(self) -> Result | None:
        """The assessment before training, under the first threat; None without test inputs."""
        return next((pair.before for pair in self.by_threat.values()), None)

    @property
    def after(self) -> Result | None:
        """The assessment after training, under the first threat; None without test inputs."""
        return next((pair.after for pair in self.by_threat.values()), None)

    @property
    def under_all(self) -> tuple[Rate, Rate] | None:
        """The share of test inputs that stand under every threat, before and after; None without test inputs."""
        if not self.by_threat:
            return None
        before, after = zip(
            *((p.before.record, p.after.record) for p in self.by_threat.values()), strict=True
        )
        return standing_under_all(before), standing_under_all(after)

    @property
    def best(self) -> Epoch | None:
        """The epoch whose weights the model has."""
        return best_epoch(self.history)

    @property
    def _module(self) -> nn.Module:
        module: nn.Module = self.model if isinstance(self.model, nn.Module) else self.model.module
        return module

    def save(self, path: str | Path) -> Path:
        """Write the weights as safetensors; ``hardpoint.models.load_weights`` reads them. Those of a ``Denoised``
        network fit such a network; ``denoiser.save`` writes the denoiser alone."""
        target = Path(path)
        write_atomically(target, weights_content(self._module.state_dict()))
        return target

    def __repr__(self) -> str:
        if self.before is None or self.after is None:
            return f"<{self.recipe}, {len(self.history)} epochs>"
        several = len(self.by_threat) > 1
        robust = ", ".join(
            (f"under {name} " if several else "")
            + f"{pair.before.robust_accuracy} → {pair.after.robust_accuracy}"
            for name, pair in self.by_threat.items()
        )
        return (
            f"<{self.recipe}, {len(self.history)} epochs: robust accuracy {robust}, "
            f"clean {self.before.clean_accuracy} → {self.after.clean_accuracy}>"
        )
