"""The network behind a smoothed classifier: what it answers to noisy inputs, and what it must not do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from hardpoint.core.access import Access
from hardpoint.core.errors import BadModelOutput, ConfigError, HardpointError, ModelError, NonFiniteOutput
from hardpoint.core.rows import all_finite, chunks
from hardpoint.engine.clean import checked_scores, first_answer
from hardpoint.engine.guard import refuse_training_layers
from hardpoint.models.base import Model, refusal_of
from hardpoint.models.torch import TorchModel

_WIDE = 32  # channels from which a convolution is faster with channels last: 1.5 to 3 times, and slower below
_ALIKE = 1e-3  # of the largest score: what another order of sums may change


@dataclass(frozen=True)
class Base:
    """What is smoothed.

    Attributes:
        model: answers the inputs, after ``denoise``.
        denoise: applied to noisy inputs first.
        device: where noisy inputs are made.
        channels_last: the memory format in which images are given.
    """

    model: Model
    denoise: nn.Module | None
    device: torch.device
    channels_last: bool = False

    @classmethod
    def of(cls, model: nn.Module | Model, denoise: nn.Module | None) -> Base:
        """Raises ``ModelError`` for what is no model, and for layers in training mode."""
        known = TorchModel(model) if isinstance(model, nn.Module) else model
        if not isinstance(known, Model):
            raise ModelError(
                f"{type(model).__name__} is not a model", "give a torch.nn.Module or a hp.models.*"
            )
        if denoise is not None and not isinstance(denoise, nn.Module):
            raise ModelError(f"{type(denoise).__name__} is not a torch.nn.Module", "give the denoiser itself")
        device = getattr(known, "device", None)
        base = cls(known, denoise, device if isinstance(device, torch.device) else torch.device("cpu"))
        for module in base.modules():
            refuse_training_layers(module)
        return cls(known, denoise, base.device, base._is_wide())

    def modules(self) -> list[nn.Module]:
        """Those that are known."""
        module = getattr(self.model, "module", None)
        return [each for each in (self.denoise, module) if isinstance(each, nn.Module)]

    def scores(self, z: Tensor) -> Tensor:
        """``[rows, K]``: the scores of noisy inputs; finite."""
        scores = checked_scores(self.model.scores(self._prepared(z)), len(z))
        if not all_finite(scores):
            raise NonFiniteOutput(
                "the model returned NaN or infinity for a noisy input",
                "find the layer that overflows; noise leaves the input range, and is not cut to it",
            )
        return scores

    @property
    def shows_scores(self) -> bool:
        """Or labels only."""
        return self.model.access >= Access.SCORES

    def labels(self, z: Tensor, classes: int | None = None) -> Tensor:
        """int64 ``[rows]``: the classes of noisy inputs; of so many ``classes``."""
        if self.shows_scores:
            return self.scores(z).argmax(1)
        labels = self.model.predict(self._prepared(z))
        if classes is not None and bool(((labels < 0) | (labels >= classes)).any()):
            raise BadModelOutput(
                f"the model answered no class from 0 to {classes - 1}", "say how many there are"
            )
        return labels

    def suited(self, z: Tensor) -> Base:
        """In the memory format that the model takes, after trying it on noisy inputs ``z``, a few."""
        if not self.channels_last:
            return self
        plain = replace(self, channels_last=False)
        try:
            agree = _apart(plain.scores(z), self.scores(z)) <= 0
        except (HardpointError, RuntimeError):  # a module that views memory as it knows it
            agree = False
        return self if agree else plain

    def classes(self, z: Tensor, declared: int | None) -> int:
        """How many answers there are, after trying the model on noisy inputs ``z``, a few.

        Raises:
            ModelError: where answers vary from pass to pass, or depend on what else is in the batch: then draws are
                not independent, and counts prove nothing.
            ConfigError: where a model that shows labels only did not come with a number of classes.
        """
        ask: Callable[[Tensor], Tensor] = self.scores
        if not self.shows_scores:
            if declared is None:
                raise ConfigError(
                    "a model that shows labels only does not say how many there are", "give classes"
                )
            ask = self.labels
        together = first_answer(ask, z)
        if _apart(together, ask(z)) > 0:
            raise ModelError("the model's answers are random", "smooth it without its own randomness")
        if _apart(together, torch.cat([ask(row) for row in chunks(z, 1)])) > 0:
            raise ModelError(
                "an answer depends on the other inputs of its batch", "normalise by statistics that are fixed"
            )
        found = together.shape[1] if self.shows_scores else declared
        assert found is not None
        if declared not in (None, found):
            raise ConfigError(f"classes is {declared}, the model has {found}", "leave it out, or give that")
        return found

    def refuses(self) -> int | None:
        """The answer that is no class."""
        return refusal_of(self.model)

    def _prepared(self, z: Tensor) -> Tensor:
        if self.channels_last and z.dim() == 4:
            z = _channels_last(z)
        if self.denoise is None:
            return z
        cleaned = self.denoise(z)
        if not isinstance(cleaned, Tensor) or len(cleaned) != len(z):
            raise ModelError(
                "the denoiser did not return one tensor of inputs", "return [n, ...] as it was given"
            )
        return cleaned

    def _is_wide(self) -> bool:
        """Whether convolutions of many channels are computed on the CPU, by modules that keep a format."""
        layers = [layer for module in self.modules() for layer in module.modules()]
        widths = [layer.in_channels // layer.groups for layer in layers if isinstance(layer, nn.Conv2d)]
        return self.device.type == "cpu" and max(widths, default=0) >= _WIDE


def _apart(first: Tensor, second: Tensor) -> float:
    """By how much answers differ beyond what another order of sums may change."""
    gap = float((first - second).abs().amax())
    if not first.is_floating_point():
        return gap
    return gap - max(_ALIKE, 8 * torch.finfo(first.dtype).eps) * float(first.abs().amax())


def _channels_last(z: Tensor) -> Tensor:
    """``z`` ``[n, channels, height, width]`` with the channels of a pixel side by side."""
    if z.shape[1] == 1:  # the memory is the same; only strides tell layers which format is meant
        return z.reshape(len(z), *z.shape[2:], 1).permute(0, 3, 1, 2)
    return z.contiguous(memory_format=torch.channels_last)
