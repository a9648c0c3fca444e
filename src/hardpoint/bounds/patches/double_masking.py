"""Double masking: a defence around any classifier, and the proof that no patch changes what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from hardpoint.bounds.certified import SLACK
from hardpoint.bounds.inputs import refuse_inputs, refuse_labels
from hardpoint.bounds.patches.answers import (
    answered,
    check_work,
    labels_of,
    refuse_unsettled,
    settled_model,
)
from hardpoint.bounds.patches.masks import mask_set
from hardpoint.bounds.patches.sizes import Sizes, patch_sizes
from hardpoint.core.access import Access
from hardpoint.core.box import Box
from hardpoint.core.errors import AccessDenied, ConfigError, DataError
from hardpoint.models.base import Model
from hardpoint.threats.images import check_images


@dataclass(frozen=True, eq=False)
class MaskCertificates:
    """What is proven of the defended classifier.

    Attributes:
        predicted: int64 ``[n]``, what it answers.
        certified: bool ``[n]``: it answers the same whatever any one of the patches shows, wherever it lies.
    """

    predicted: Tensor
    certified: Tensor


@dataclass(frozen=True, eq=False)
class DoubleMasking:
    """A classifier asked about masked images, which is what the certificate speaks about: not the bare classifier.

    It is a model that answers labels. An image is looked at under each mask of a set of which one covers the patch,
    wherever it is. If all answers are one, that is it. Else each mask whose answer differs from the majority's is tried
    with every second mask, and its answer taken if none of them changes it; else the majority's.

    If on a clean image all pairs of masks give one answer, then no patch changes it: the mask that covers the patch
    shows a clean masked image with every second mask, and so does any other mask together with it (Xiang, Mahloujifar
    and Mittal, "PatchCleanser: certifiably robust defense against adversarial patches for any image classifier",
    USENIX Security 2022, algorithms 1 and 2, theorem 1).

    Args:
        model: any classifier of images ``[n, c, h, w]``; a network in evaluation mode, whose answer to an image
            depends on no other image and on no chance.
        patches: one side in pixels, a list of (rows, columns), several where the shape is not known, or
            ``hp.Patch``. One patch, upright, of at most one of these sizes.
        masks: along each axis at most, for each size. More masks are smaller, and need more passes.
        fill: what masked pixels show: a number, or one per channel, which depend on no pixel; the middle of the
            model's input range by default.
        slack: by how much, in units of the scores, an answer must be ahead to count in a proof: batches of other
            sizes may round otherwise.
        batch: images per pass.

    Raises:
        ConfigError: for less than one mask, slack or batch that make no sense, a fill outside the input range.
        ThreatError: for patches that do not fit, and inputs that are not images.

    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)).eval().requires_grad_(False)
    >>> _ = net[1].weight.copy_(torch.tensor([-1.0, 1.0]).view(2, 1).expand(2, 64)), net[1].bias.zero_()
    >>> _ = net[1].bias.add_(torch.tensor([20.0, -20.0]))
    >>> defended = DoubleMasking(net, patches=2, masks=3, fill=0.0)
    >>> bright = torch.stack([torch.full((1, 8, 8), 0.9), torch.full((1, 8, 8), 0.4)])
    >>> defended.certified(bright, torch.tensor([1, 1]))
    tensor([ True, False])
    """

    model: Any
    patches: Sizes
    masks: int | tuple[int, int] = 6
    fill: float | tuple[float, ...] | None = None
    slack: float = SLACK
    batch: int = 256
    base: Model = field(init=False)
    access: ClassVar[Access] = Access.LABELS

    def __post_init__(self) -> None:
        object.__setattr__(self, "base", settled_model(self.model))
        check_work(self.slack, self.batch)
        if min(self._per_axis) < 1:
            raise ConfigError(f"masks is {self.masks}", "give at least 1 per axis")

    @property
    def _per_axis(self) -> tuple[int, int]:
        return (self.masks, self.masks) if isinstance(self.masks, int) else self.masks

    # -- the certificate

    def certified(self, x: Tensor, y: Tensor) -> Tensor:
        """Bool ``[n]``: images that are answered ``y`` whatever any one patch shows, wherever it lies.

        False says that nothing was proven. Images leave with the first pair of masks that does not give ``y``.

        Args:
            x: clean images ``[n, c, h, w]`` inside the model's input range.
            y: int64 ``[n]``.

        Raises:
            DataError: for images or labels that cannot be used.
        """
        self._refuse(x)
        refuse_labels(y, len(x))
        masks, standing = self._masks(x), torch.arange(len(x), device=x.device)
        first, second = _pairs(len(masks))
        done, labels = 0, y.to(x.device).long()
        if len(x):
            refuse_unsettled(self.base, self._under(x[:1], masks[:2]), self.slack)
        while len(standing) and done < len(first):
            many = max(1, self.batch // len(standing))
            both = masks[first[done : done + many]] | masks[second[done : done + many]]
            views = self._under(x[standing], both)
            stands = answered(
                self.base, views, labels[standing].repeat_interleave(len(both)), self.slack, self.batch
            )
            standing = standing[stands.view(-1, len(both)).all(1)]
            done += many
        proven = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        proven[standing] = True
        return proven

    def certify(self, x: Tensor) -> MaskCertificates:
        """What the defended classifier answers to clean images ``x`` ``[n, c, h, w]``, and where that is proven."""
        predicted = self.predict(x)
        return MaskCertificates(predicted, self.certified(x, predicted))

    # -- the classifier

    @property
    def box(self) -> Box:
        return self.base.box

    def predict(self, x: Tensor) -> Tensor:
        """int64 ``[n]``: what is answered to images that may hold a patch."""
        self._refuse(x)
        if not len(x):
            return torch.zeros(0, dtype=torch.int64, device=x.device)
        masks = self._masks(x)
        once = torch.stack(
            [labels_of(self.base, self._under(x, mask.unsqueeze(0)), self.batch) for mask in masks], dim=1
        )
        answers = once[:, 0].clone()
        for row in (once != once[:, :1]).any(1).nonzero().flatten().tolist():
            answers[row] = self._settled(x[row : row + 1], once[row], masks)
        return answers

    def _settled(self, x: Tensor, once: Tensor, masks: Tensor) -> int:
        """The answer to one image ``[1, c, h, w]`` whose masks do not agree."""
        majority = int(torch.bincount(once).argmax())  # of equally many, the smallest class
        for first in (once != majority).nonzero().flatten().tolist():
            label = int(once[first])
            twice = labels_of(self.base, self._under(x, masks | masks[first]), self.batch)
            if bool((twice == label).all()):
                return label
        return majority

    def scores(self, x: Tensor) -> Tensor:
        raise AccessDenied("double masking answers labels only", 'use a threat with access="labels"')

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "double masking",
            "name": f"double masking of {self.base.describe().get('name')}",
            "sha256": None,
            "parameters": None,
            "patches": str(self.patches),
            "masks": list(self._per_axis),
            "base": self.base.describe(),
            "input_range": self.box.describe(),
        }

    # -- masks

    def _refuse(self, x: Tensor) -> None:
        refuse_inputs(x, self.box)
        check_images("double masking", x)

    def _masks(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        sizes = patch_sizes(self.patches, height, width)
        return mask_set(height, width, sizes, self._per_axis).to(x.device)

    def _under(self, x: Tensor, masks: Tensor) -> Tensor:
        """``[n * m, c, h, w]``: each image under each mask ``[m, h, w]``, image by image."""
        covered = masks.unsqueeze(1).unsqueeze(0)
        return torch.where(covered, self._filling(x), x.unsqueeze(1)).flatten(0, 1)

    def _filling(self, x: Tensor) -> Tensor:
        """What masked pixels show, broadcastable against images."""
        low, high = self.box.bounds_like(x[:1])
        if self.fill is None:
            if not self.box.is_bounded:
                raise ConfigError(
                    "the input range has no middle to fill masks with", "give fill, or the range"
                )
            middle = ((low.double() + high.double()) / 2).to(x.dtype)
            return middle.expand(x.shape[1:])
        numbers = [self.fill] if isinstance(self.fill, int | float) else list(self.fill)
        if len(numbers) not in (1, x.shape[1]):
            raise DataError(
                f"fill has {len(numbers)} numbers, the images {x.shape[1]} channels", "give one per channel"
            )
        shown = torch.tensor(numbers, dtype=x.dtype, device=x.device).view(-1, 1, 1).expand(x.shape[1:])
        if not bool(((shown >= low) & (shown <= high)).all()):
            raise ConfigError(f"fill {self.fill} lies outside the input range", "give a colour inside it")
        return shown


def _pairs(count: int) -> tuple[Tensor, Tensor]:
    """Every unordered pair of ``count`` masks once, each with itself too; those far apart, which cover most, first."""
    first, second = torch.triu_indices(count, count).unbind(0)
    order = (first - second).argsort(stable=True)
    return first[order], second[order]
