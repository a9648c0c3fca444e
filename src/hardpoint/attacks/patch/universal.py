"""One patch for a whole data set, wherever it is stuck."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hardpoint.attacks.heldout import Bench, CountingOracle, Data, Spent, set_up, share
from hardpoint.attacks.losses import Loss, goal_loss
from hardpoint.attacks.patch.placement import Pose, Poses, placed
from hardpoint.core.errors import ThreatError
from hardpoint.core.rng import Rng
from hardpoint.core.rows import chunks
from hardpoint.evidence.rate import Rate
from hardpoint.threats.goals import unrefused
from hardpoint.threats.images import to_unit
from hardpoint.threats.patch import Patch, PatchRegion
from hardpoint.threats.perturbation import Perturbation
from hardpoint.threats.threat import Threat

_PLACES = tuple(
    (" ".join(dict.fromkeys((down, right))), (i, j))
    for i, down in zip((0.0, 0.5, 1.0), ("top", "middle", "bottom"), strict=True)
    for j, right in zip((0.0, 0.5, 1.0), ("left", "middle", "right"), strict=True)
)


@dataclass(frozen=True)
class PatchCell:
    """Success of the patch at one size and place, in random turns and light.

    Attributes:
        size: the side, as a share of the side that the threat's area gives.
        area: the share of the image that it covers.
        place: ``"top left"`` … ``"middle"`` … ``"bottom right"``, or ``"fixed"``.
        success: the share of held-out inputs, of those the model gets right, that fall; verified.
        control: the same for a patch of plain mid grey: what covering that much of the image does by itself.
    """

    size: float
    area: float
    place: str
    success: Rate
    control: Rate


@dataclass(frozen=True, eq=False)
class UniversalPatchResult:
    """What one patch does to inputs it has not seen.

    Attributes:
        patch: ``[c, side, side]``, in the model's input units.
        success: the share of held-out inputs, of those the model gets right, that fall when the patch is stuck on
            each once, in a random pose; verified one by one.
        control: the same for a patch of plain mid grey in the same poses.
        cells: success by size and place.
        index: int64 ``[n]``, the held-out inputs that were judged, as positions in the data given.
        broken: bool ``[n]``, which of them fall in their random poses.
        adversarial: ``[n, ...]``, the pictures in these poses.
        passes: what it cost.
    """

    patch: Tensor
    success: Rate
    control: Rate
    cells: tuple[PatchCell, ...]
    index: Tensor
    broken: Tensor
    adversarial: Tensor
    passes: Spent


@dataclass(frozen=True)
class UniversalPatch:
    """A patch trained to work on any input, anywhere, at any size, turn and light (expectation over transformation).

    Each step sticks the patch on a batch of inputs in poses drawn anew and follows the mean gradient (Brown et al.,
    "Adversarial patch", 2017; Athalye et al., "Synthesizing robust adversarial examples", ICML 2018) with Adam. With
    the threat's palette, pictures show the nearest printable colours and the gradient passes straight through; its
    roughness, the mean difference of neighbouring pixels (total variation; Sharif et al., "Accessorize to a crime",
    CCS 2016), can be charged for.

    The threat's area is that of the patch upright at size 1. A turned patch is verified against the upright square
    around it, light against the input range.

    Args:
        steps: batches.
        batch: inputs per batch.
        step_size: Adam's, as a share of the input range.
        poses: how the patch varies.
        smoothness: weight of the roughness in the objective, in log-odds of being wrong.
        clip: the loss above which an input counts no more.

    >>> UniversalPatch(steps=50, poses=Poses(rotation=0, sizes=(1.0,))).poses.sizes
    (1.0,)
    """

    steps: int = 200
    batch: int = 32
    step_size: float = 0.05
    poses: Poses = field(default_factory=Poses)
    smoothness: float = 0.0
    clip: float = 9.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or not self.step_size > 0 or self.smoothness < 0:
            raise ThreatError(
                f"UniversalPatch(steps={self.steps}, batch={self.batch}, step_size={self.step_size}, "
                f"smoothness={self.smoothness})",
                "give whole numbers of 1 or more, a positive step, and a smoothness of 0 or more",
            )
        if not self.poses.sizes or not all(0 < size <= 1 for size in self.poses.sizes):
            raise ThreatError(
                f"the patch's sizes are {self.poses.sizes}", "give shares of its side, above 0 up to 1"
            )

    def __call__(
        self,
        model: Any,
        train: Data,
        test: Data,
        threat: Threat | Perturbation,
        *,
        seed: int = 0,
        batch_size: int | None = None,
    ) -> UniversalPatchResult:
        """Train a patch on ``train`` and judge it on ``test``, both ``(images, labels)``.

        Args:
            model: an ``nn.Module`` in evaluation mode, or an adapter that gives gradients.
            train: what it is made on.
            test: what it is judged on; no image may be in both.
            threat: with ``Patch``, whose area, location and palette hold.
            seed: every random draw follows from it.
            batch_size: images asked about at once.

        Raises:
            ThreatError: for another perturbation, or a patch below one pixel.
            HardpointError: when the model or the data cannot be used; the message says the cure.
        """
        perturbation = Threat.of(threat).perturbation
        if not isinstance(perturbation, Patch):
            raise ThreatError("a universal patch needs a patch threat", "give hp.Patch(area=…)")
        bench = set_up(model, train, test, threat, seed, batch_size)
        region = perturbation.around(bench.x, bench.target.model.box)
        if region.side < 1:
            raise ThreatError(f"an area of {perturbation.area:g} is less than a pixel", "give a larger one")
        with bench.search() as oracle:
            patch = self._trained(bench, region, oracle)
        low, high = region.ends_of_patch()
        grey = region.printable(((low + high) / 2).unsqueeze(0).expand(1, *region.patch_shape))[0]
        judge = _Judge(self.poses, bench, region)
        adversarial, broken = judge.anywhere(patch)
        _, covered = judge.anywhere(grey)
        cells = tuple(
            PatchCell(
                size,
                (size * region.side) ** 2 / (bench.x.shape[-2] * bench.x.shape[-1]),
                place,
                share(judge.at(patch, size, at)),
                share(judge.at(grey, size, at)),
            )
            for size in self.poses.sizes
            for place, at in judge.places()
        )
        return UniversalPatchResult(
            patch=patch,
            success=share(broken),
            control=share(covered),
            cells=cells,
            index=bench.index,
            broken=broken,
            adversarial=adversarial,
            passes=Spent(oracle.forward, oracle.backward, judge.passes),
        )

    def _trained(self, bench: Bench, region: PatchRegion, oracle: CountingOracle) -> Tensor:
        box, goal, rng = bench.target.model.box, bench.threat.goal, bench.rng.fork("patch")
        low, high = region.ends_of_patch()
        first = torch.zeros(1, dtype=torch.int64, device=bench.x.device)
        middle = (low + high) / 2
        start = middle + 0.2 * (region.random_patch(rng, first)[0] - middle)
        # Adam works on shares of the input range, whatever the units of the model
        free = to_unit(start.unsqueeze(0), box)[0].requires_grad_(True)
        adam = torch.optim.Adam([free], lr=self.step_size, betas=(0.9, 0.99), maximize=True)
        low64, width = low.double(), (high - low).double()
        for step in range(self.steps):
            rows = bench.batch(step, self.batch)
            x, y = bench.train_x[rows], bench.train_y[rows]
            pose = _anywhere(self.poses, region, rng, rows, step + 1)

            with torch.enable_grad():
                content = (low64 + free * width).to(x.dtype)
                shown = content + (region.printable(content.detach().unsqueeze(0))[0] - content.detach())
                picture = placed(x, shown, pose, box)

            def slope_at(part: Tensor, y: Tensor = y, picture: Tensor = picture) -> Tensor:
                def objective(scores: Tensor) -> Tensor:
                    classes = unrefused(scores, goal)  # as for universal perturbations
                    return goal_loss(Loss.CE, classes, y[part], goal).clamp(max=self.clip)

                gradient = oracle.ask_gradient(picture.detach()[part], objective).gradient
                assert gradient is not None
                return gradient

            gradient = torch.cat([slope_at(part) for part in chunks(torch.arange(len(rows)), oracle.chunk)])
            with torch.enable_grad():
                value = (picture * gradient).sum() / len(rows)
                if self.smoothness:
                    value = value - self.smoothness * roughness(free)
            (slope,) = torch.autograd.grad(value, free)
            free.grad = slope
            adam.step()
            with torch.no_grad():
                free.clamp_(0, 1)
        content = (low64 + free.detach() * width).to(bench.x.dtype)
        return region.printable(content.unsqueeze(0))[0]


def roughness(patch: Tensor) -> Tensor:
    """The mean absolute difference of neighbouring pixels of ``[c, s, s]``: total variation per pixel pair.

    >>> roughness(torch.tensor([[[0.0, 1.0], [0.0, 1.0]]]))
    tensor(0.5000)
    """
    if patch.shape[-1] < 2:
        return patch.sum() * 0
    down = (patch[:, 1:] - patch[:, :-1]).abs().mean()
    return (down + (patch[:, :, 1:] - patch[:, :, :-1]).abs().mean()) / 2


def _middle(region: PatchRegion, bound: Tensor, at: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Row and column of the middle, float64 ``[n]``: ``at`` is 0 at the first and 1 at the last place where a square
    of side ``bound`` lies in the image; where the threat fixes a place, the middle of that."""
    if region.location is not None:
        top, left = (min(start, most - 1) for start, most in zip(region.location, region.places, strict=True))
        half = (region.side - 1) / 2
        return torch.full_like(bound, top + half), torch.full_like(bound, left + half)
    height, width = region.x.shape[-2:]
    room = ((height - bound).clamp_min(0.0), (width - bound).clamp_min(0.0))
    first = tuple(torch.minimum(bound, torch.full_like(bound, side)) / 2 - 0.5 for side in (height, width))
    return first[0] + at[0] * room[0], first[1] + at[1] * room[1]


def _anywhere(poses: Poses, region: PatchRegion, rng: Rng, index: Tensor, counter: int) -> Pose:
    """A random pose for each input."""
    size, angle, gain, offset = poses.draw(rng.fork("pose"), index, counter)
    u = rng.fork("place").uniform(index, (2,), counter, torch.float64)
    return _pose(region, size, angle, gain, offset, (u[:, 0], u[:, 1]))


def _pose(
    region: PatchRegion, size: Tensor, angle: Tensor, gain: Tensor, offset: Tensor, at: tuple[Tensor, Tensor]
) -> Pose:
    side = size * region.side
    bound = side * (angle.cos().abs() + angle.sin().abs())
    row, column = _middle(region, bound, at)
    return Pose(row, column, side, angle, gain, offset)


class _Judge:
    """Sticks patches on the held-out inputs and counts the passes that judging takes."""

    def __init__(self, poses: Poses, bench: Bench, region: PatchRegion) -> None:
        self.poses, self.bench, self.region = poses, bench, region
        self.passes = 0

    def places(self) -> tuple[tuple[str, tuple[float, float]], ...]:
        return _PLACES if self.region.location is None else (("fixed", (0.5, 0.5)),)

    def anywhere(self, patch: Tensor) -> tuple[Tensor, Tensor]:
        """The pictures with the patch in one random pose each, and which fall."""
        return self._judged(patch, _anywhere(self.poses, self.region, self._rng(), self.bench.index, 0))

    def at(self, patch: Tensor, size: float, place: tuple[float, float]) -> Tensor:
        """Which inputs fall with the patch of this size at this place, in random turns and light."""
        index = self.bench.index
        _, angle, gain, offset = self.poses.draw(self._rng().fork("cell"), index, 0)
        sizes = torch.full_like(angle, size)
        at = torch.full_like(angle, place[0]), torch.full_like(angle, place[1])
        return self._judged(patch, _pose(self.region, sizes, angle, gain, offset, at))[1]

    def _rng(self) -> Rng:
        return self.bench.rng.fork("judge")

    def _judged(self, patch: Tensor, pose: Pose) -> tuple[Tensor, Tensor]:
        x, box = self.bench.x, self.bench.target.model.box
        pictures = placed(x, patch, pose, box)
        pixels = x.shape[-2] * x.shape[-1]
        side = float(pose.bound().max().clamp(max=min(x.shape[-2:])))
        around = Patch(min(1.0, side * side / pixels)).around(x, box)
        stands, passes = self.bench.judge(around, pictures)
        self.passes += passes
        return pictures, stands
