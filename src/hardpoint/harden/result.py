"""What ``harden`` returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from hardpoint.assess.result import Result
from hardpoint.defenses.transforms import DenoisingAutoencoder
from hardpoint.evidence.store import write_atomically
from hardpoint.evidence.training import Epoch, best_epoch
from hardpoint.harden.cost import Cost
from hardpoint.models.weights import weights_content


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
        before, after: assessments on the same test inputs under the same threat; None without test inputs.
    """

    model: Any
    history: tuple[Epoch, ...]
    recipe: str
    cost: Cost
    before: Result | None
    after: Result | None
    denoiser: DenoisingAutoencoder | None = None

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
        return (
            f"<{self.recipe}, {len(self.history)} epochs: robust accuracy {self.before.robust_accuracy} → "
            f"{self.after.robust_accuracy}, clean {self.before.clean_accuracy} → {self.after.clean_accuracy}>"
        )
