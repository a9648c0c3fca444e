"""Small models that the tests share. They live in a module so that worker processes can import them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hardpoint.core.access import Access
from hardpoint.core.box import Box
from hardpoint.models.torch import TorchModel


def seeded(build: Callable[[], Any], seed: int = 0) -> Any:
    """``build()`` with torch's generator seeded, and left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def rand(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def centred(module: nn.Module, x: Tensor) -> nn.Module:
    """``module`` with its last bias moved so that no class wins everywhere on ``x``."""
    module.eval()
    last = [m for m in module.modules() if isinstance(m, nn.Linear)][-1]
    with torch.no_grad():
        last.bias -= module(x).mean(0)
    return module


def two_sided(d: int = 6, seed: int = 0) -> tuple[TorchModel, Tensor]:
    """A linear model of two classes and its unit normal, in float64."""
    normal = randn(d, seed=seed, dtype=torch.float64)
    normal = normal / normal.norm()
    return TorchModel(linear(torch.stack([-normal, normal]) / 2), (-50.0, 50.0)), normal


def points_at(normal: Tensor, distances: Tensor, seed: int = 1) -> Tensor:
    """Points at these signed distances of the border, anywhere along it."""
    along = randn(len(distances), len(normal), seed=seed, dtype=torch.float64)
    return along - (along @ normal - distances).unsqueeze(1) * normal


def mlp(d: int = 8, classes: int = 4, hidden: int = 24, seed: int = 0, dtype=torch.float32) -> nn.Sequential:
    def build() -> nn.Sequential:
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(d, hidden),
            nn.Tanh(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, classes),
        )

    return centred(seeded(build, seed).to(dtype), rand(256, d, seed=seed, dtype=dtype))


def conv(classes: int = 5, channels: int = 2, norm: bool = True, seed: int = 0, dtype=torch.float32):
    """A convolutional net with batch norms that hold statistics; inputs are ``[n, channels, 6, 5]``."""

    def build() -> nn.Sequential:
        net = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1),
            nn.BatchNorm2d(8) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(72, classes),
        )
        net.train()
        for _ in range(20):
            net(torch.rand(32, channels, 6, 5))
        return net

    return centred(seeded(build, seed).to(dtype), rand(256, channels, 6, 5, seed=seed, dtype=dtype))


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Sequential:
    """Scores ``x.flatten(1) @ weight.T + bias``."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.zeros(len(weight)) if bias is None else bias)
    return nn.Sequential(nn.Flatten(), layer).eval()


class Wrapped(nn.Module):
    """``after(inner(before(x)))``."""

    def __init__(self, inner: nn.Module, before: Any = None, after: Any = None) -> None:
        super().__init__()
        self.inner, self.before, self.after = inner, before, after

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.before is None else self.before(x)
        z = self.inner(x)
        return z if self.after is None else self.after(z)


class Affine(nn.Module):
    """``scale * z + shift``, with classes in the order ``permutation``."""

    def __init__(self, scale: float = 1.0, shift: float = 0.0, permutation: Tensor | None = None) -> None:
        super().__init__()
        self.scale, self.shift, self.permutation = scale, shift, permutation

    def forward(self, z: Tensor) -> Tensor:
        z = self.scale * z + self.shift
        return z if self.permutation is None else z[:, self.permutation]


class Pocket(nn.Module):
    """One dimension matters: wrong only where it lies in [0.62, 0.68], and the scores rise towards 1, beyond it.

    From 0.5, steps that follow the gradient cross the pocket and end where the model is right.
    """

    def forward(self, x: Tensor) -> Tensor:
        t = x.flatten(1)[:, 0]
        inside = (t >= 0.62) & (t <= 0.68)
        margin = -1.0 + 0.5 * t + 2.0 * inside.to(t.dtype)
        return torch.stack([torch.zeros_like(t), margin], 1)


class Sum(nn.Module):
    """Two classes with scores 0 and ``slope * (mean - threshold)``."""

    def __init__(self, threshold: float = 0.6, slope: float = 10.0) -> None:
        super().__init__()
        self.threshold, self.slope = threshold, slope

    def forward(self, x: Tensor) -> Tensor:
        t = self.slope * (x.flatten(1).mean(1) - self.threshold)
        return torch.stack([torch.zeros_like(t), t], 1)


class Noisy(nn.Module):
    """``inner`` with Gaussian noise of size ``sigma`` added to its scores."""

    def __init__(self, inner: nn.Module, sigma: float) -> None:
        super().__init__()
        self.inner, self.sigma = inner, sigma

    def forward(self, x: Tensor) -> Tensor:
        z = self.inner(x)
        return z + self.sigma * torch.randn_like(z)


class BatchNormalised(nn.Module):
    """Normalises by the statistics of the batch at hand, in evaluation mode too."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)) / (x.std(0, unbiased=False) + 1e-2)


class Sign(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sign(x)


class Quantise(nn.Module):
    """Rounds to ``levels`` steps: no gradient anywhere."""

    def __init__(self, levels: int = 8) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        return torch.round(x * self.levels) / self.levels


class Detach(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


class Shattered(nn.Module):
    """Adds a fast small wave to each input: the gradient points anywhere, the answers hardly change."""

    def __init__(self, height: float = 2e-3, rate: float = 5e4) -> None:
        super().__init__()
        self.height, self.rate = height, rate

    def forward(self, x: Tensor) -> Tensor:
        return x + self.height * torch.sin(self.rate * x)


class NaNs(nn.Module):
    """NaN where the first number of an input is above ``above``."""

    def __init__(self, above: float = 0.5) -> None:
        super().__init__()
        self.above = above

    def forward(self, x: Tensor) -> Tensor:
        return torch.where((x.flatten(1)[:, :1] > self.above), torch.nan, x)


class Adapts(nn.Module):
    """Moves its input by a gradient step of its own before it answers."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            point = x.detach().requires_grad_(True)
            (step,) = torch.autograd.grad(self.inner(point).logsumexp(1).sum(), point)
        return self.inner(x + 1e-3 * step)


class RunsOut(nn.Module):
    """Fails at the pass number ``at``, counted over all copies in this process."""

    passes = 0

    def __init__(self, inner: nn.Module, at: int) -> None:
        super().__init__()
        self.inner, self.at = inner, at

    def forward(self, x: Tensor) -> Tensor:
        RunsOut.passes += 1
        if RunsOut.passes >= self.at:
            raise OSError("the accelerator fell off the bus")
        return self.inner(x)


class Counted(nn.Module):
    """Counts rows that pass forward and backward, over all copies in this process."""

    forward_rows = 0
    backward_rows = 0

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    @classmethod
    def reset(cls) -> None:
        cls.forward_rows = cls.backward_rows = 0

    def forward(self, x: Tensor) -> Tensor:
        Counted.forward_rows += len(x)
        z = self.inner(x)
        if z.requires_grad:
            z.register_hook(self._count)
        return z

    @staticmethod
    def _count(gradient: Tensor) -> None:
        Counted.backward_rows += len(gradient)


class Ledger:
    """A model without a module that writes down every row it is asked about, by what it was asked for."""

    def __init__(self, module: nn.Module, access: Access | str, box: Box | None = None) -> None:
        self._module, self._access = module.eval(), Access.parse(access)
        self._box = box if box is not None else Box(0.0, 1.0)
        self.asked: dict[str, list[Tensor]] = {"scores": [], "labels": []}

    @property
    def access(self) -> Access:
        return self._access

    @property
    def box(self) -> Box:
        return self._box

    def scores(self, x: Tensor) -> Tensor:
        if self._access < Access.SCORES:
            raise AssertionError("scores were asked for")
        self.asked["scores"].append(x.clone())
        with torch.no_grad():
            return self._module(x)

    def predict(self, x: Tensor) -> Tensor:
        self.asked["labels"].append(x.clone())
        with torch.no_grad():
            return self._module(x).argmax(1)

    def describe(self) -> dict[str, Any]:
        return {"kind": "ledger", "name": "Ledger", "sha256": None, "parameters": 0, "input_range": [0, 1]}

    @property
    def rows(self) -> int:
        return sum(len(x) for kind in self.asked.values() for x in kind)


def labelled(module: nn.Module, x: Tensor) -> Tensor:
    """The labels ``module`` gives, so that its clean accuracy is 1."""
    with torch.no_grad():
        z = module(x)
    return z.argmax(1) if z.dim() == 2 and z.shape[1] > 1 else (z.flatten() > 0).long()


def worst_margin(
    weight: Tensor, bias: Tensor, x: Tensor, y: Tensor, norm: str, eps: float, low=0.0, high=1.0
):
    """float64 ``[n]``: the largest margin of a wrong class of a linear model in ball ∩ box, exactly.

    One linear function per wrong class. Linf: each coordinate goes to an end. L1: the budget is spent on the
    steepest coordinates first (fractional knapsack). L2: ``clip(s g)`` for the one s that spends the budget.
    """
    w, b, z = weight.double(), bias.double(), x.double().flatten(1)
    worst = torch.full((len(z),), -math.inf, dtype=torch.float64)
    for i in range(len(z)):
        for j in range(len(w)):
            if j != int(y[i]):
                g = w[j] - w[int(y[i])]
                at = float(g @ z[i] + b[j] - b[int(y[i])])
                gain = _best_gain(g, low - z[i], high - z[i], norm, eps)
                worst[i] = max(float(worst[i]), at + gain)
    return worst


def _best_gain(g: Tensor, low: Tensor, high: Tensor, norm: str, eps: float) -> float:
    room = torch.where(g > 0, high, -low)
    if norm == "linf":
        return float((g.abs() * room.clamp(max=eps)).sum())
    if norm == "l1":
        order = g.abs().argsort(descending=True)
        spent = room[order].cumsum(0).clamp(max=eps)
        return float((g.abs()[order] * spent.diff(prepend=torch.zeros(1, dtype=g.dtype))).sum())
    lowest, highest = 0.0, 1e12

    def move(s: float) -> Tensor:
        return torch.minimum((s * g).abs(), room)

    if float(move(highest).norm()) <= eps:
        return float((g.abs() * room).sum())
    for _ in range(90):
        middle = (lowest + highest) / 2
        lowest, highest = (middle, highest) if float(move(middle).norm()) <= eps else (lowest, middle)
    return float((g.abs() * move(lowest)).sum())
