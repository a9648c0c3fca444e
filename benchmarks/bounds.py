"""What linear bounds prove on MNIST and what they cost, beside auto_LiRPA and ART's intervals.

AUTO_LIRPA=<its source folder> python -m benchmarks.run --only bounds --threads 1

All bound the margins of the same network over the same boxes, in batches of the same size. auto_LiRPA is not to be had
from a package index in a version that today's torch can import; its source is taken from a folder.
"""

from __future__ import annotations

import contextlib
import copy
import os
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.measure import Options, Table, interleaved, median
from benchmarks.models import wk17a
from hardpoint.bounds.alpha import Ascent, alpha_linear, alpha_spans
from hardpoint.bounds.ball import allowed
from hardpoint.bounds.certified import in_double
from hardpoint.bounds.claim import Claim
from hardpoint.bounds.crown import crown_spans
from hardpoint.bounds.graph import Network
from hardpoint.bounds.interval import intervals, margin_bounds
from hardpoint.bounds.linear import backward
from hardpoint.bounds.tracing import traced
from hardpoint.core.box import Box
from hardpoint.threats.linf import Linf

_EPS, _BATCH = 0.1, 20

Bound = Callable[[Tensor, Tensor], Tensor]
"""The least margin of each input, of inputs and labels."""


def run(options: Options) -> list[Table]:
    """Linear bounds, then intervals of two networks."""
    module, x, y = wk17a("mnist_kw_convex.pth")
    count = 40 if options.quick else 200
    few = 8 if options.quick else 20
    ours = _Ours(module, x[:1])
    jobs: dict[str, Bound] = {
        "Hardpoint CROWN (real)": lambda a, b: ours.crown(a, b, outward=False),
        "Hardpoint CROWN (rigorous)": lambda a, b: ours.crown(a, b, outward=True),
    }
    slow: dict[str, Bound] = {"Hardpoint alpha-CROWN, 20 steps": ours.alpha}
    theirs = _auto_lirpa(module, x[:1])
    if theirs is not None:
        jobs["auto_LiRPA CROWN"] = lambda a, b: theirs(a, b, "CROWN")
        slow["auto_LiRPA CROWN-Optimized, 20 steps"] = lambda a, b: theirs(a, b, "CROWN-Optimized")
    table = Table(
        f"Linear bounds, MNIST, Linf {_EPS}, network of Wong and Kolter",
        ["method", "images", "seconds per image", "processor seconds", "proven", "mean margin"],
    )
    for group, n in ((jobs, count), (slow, few)):
        table.rows += _measured(group, x[:n], y[:n], options)
    table.notes.append(
        f"Batches of {_BATCH}, {torch.get_num_threads()} thread(s), median of {options.repeats} runs in turn."
    )
    pictures = torch.rand(few, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return [
        table,
        _boxes("the same network", module, x[:few], y[:few], options),
        _boxes("a network of six layers, 3×32×32", _large(), pictures, y[:few], options),
    ]


def _boxes(name: str, module: nn.Module, x: Tensor, y: Tensor, options: Options) -> Table:
    """Intervals of one network, ours and ART's."""
    table = Table(
        f"Intervals, {name}, Linf {_EPS}",
        ["method", "images", "seconds per image", "processor seconds", "proven", "mean margin"],
    )
    jobs: dict[str, Bound] = {"Hardpoint intervals": _Ours(module, x[:1]).interval}
    art = _art(module, x[0].shape)
    if art is not None:
        jobs["ART 1.20.1 intervals"] = art
    table.rows += _measured(jobs, x, y, options)
    table.notes.append("ART makes a dense matrix of every convolution.")
    return table


def _large() -> nn.Module:
    """The larger network of Gowal et al. 2018, its weights drawn: what its bounds cost does not depend on them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 32, 4, 2, 1), nn.ReLU(),
            nn.Conv2d(32, 64, 3, 1, 1), nn.ReLU(), nn.Conv2d(64, 64, 4, 2, 1), nn.ReLU(),
            nn.Flatten(), nn.Linear(4096, 512), nn.ReLU(), nn.Linear(512, 10),
        ).eval()  # fmt: skip


def _measured(jobs: dict[str, Bound], x: Tensor, y: Tensor, options: Options) -> list[list[str]]:
    found: dict[str, Tensor] = {}

    def job(name: str) -> Callable[[], object]:
        def work() -> None:
            parts = zip(x.split(_BATCH), y.split(_BATCH), strict=True)
            found[name] = torch.cat([jobs[name](a, b).double() for a, b in parts])

        return work

    times = interleaved({name: job(name) for name in jobs}, options.repeats, "cpu")
    return [
        [
            name,
            str(len(x)),
            f"{median(times[name].wall) / len(x):.4f}",
            f"{median(times[name].processor) / len(x):.4f}",
            f"{100 * float((found[name] > 0).double().mean()):.1f} %",
            f"{float(found[name].mean()):.4f}",
        ]
        for name in jobs
    ]


class _Ours:
    """The bounds of this package, without the attacks and checks around them."""

    def __init__(self, module: nn.Module, x: Tensor) -> None:
        double = in_double(module)
        exact, quick = traced(double, x.double()), traced(in_double(module).float(), x)
        self.network = Network(exact, quick)

    def crown(self, x: Tensor, y: Tensor, outward: bool) -> Tensor:
        graph, claim = self.network.exact, Claim.of_classes(y, 10)
        region = allowed(x, Box(0.0, 1.0), Linf(_EPS))
        with torch.no_grad():
            spans = crown_spans(graph, region if outward else region.roughly(torch.float64))
            return backward(graph, spans, claim.rows).least(spans[0]).amin(1)

    def alpha(self, x: Tensor, y: Tensor) -> Tensor:
        graph, claim = self.network.exact, Claim.of_classes(y, 10)
        region = allowed(x, Box(0.0, 1.0), Linf(_EPS)).roughly(torch.float64)
        with torch.no_grad():
            spans = crown_spans(graph, region)
        spans = alpha_spans(self.network, spans, Ascent(steps=20))
        linear = alpha_linear(self.network, spans, claim.rows, Ascent(steps=20))
        return linear.least(region).amin(1)

    def interval(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            spans = intervals(self.network.exact, allowed(x, Box(0.0, 1.0), Linf(_EPS)))
            found = margin_bounds(self.network.exact, spans, y)
        return found.scatter(1, y.unsqueeze(1), torch.inf).amin(1)


def _auto_lirpa(module: nn.Module, x: Tensor) -> Callable[[Tensor, Tensor, str], Tensor] | None:
    folder = os.environ.get("AUTO_LIRPA")
    if not folder:
        return None
    sys.path.insert(0, folder)
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    made = BoundedModule(module, x, device="cpu", verbose=False)
    made.set_bound_opts({"optimize_bound_args": {"iteration": 20}})

    def bound(a: Tensor, b: Tensor, method: str) -> Tensor:
        ball = PerturbationLpNorm(x_L=(a - _EPS).clamp(0, 1), x_U=(a + _EPS).clamp(0, 1))
        rows = Claim.of_classes(b, 10).rows.float()
        given = (BoundedTensor(a, ball),)
        with torch.set_grad_enabled(method != "CROWN"):
            low = made.compute_bounds(x=given, C=rows, method=method, bound_upper=False)[0]
        found: Tensor = low.detach().amin(1)
        return found

    return bound


class _Flattening(nn.Module):
    """A copy of the layers with a function in the place of the one that flattens, which ART does not know."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        layers = list(copy.deepcopy(module).children())
        self.cut = next(i for i, layer in enumerate(layers) if isinstance(layer, nn.Flatten))
        for i, layer in enumerate(layers):  # ART looks at the children themselves, not inside them
            if i != self.cut:
                self.add_module(str(i), layer)

    def forward(self, x: Tensor) -> Tensor:
        for name, layer in self.named_children():
            x = torch.flatten(layer(x), 1) if int(name) == self.cut - 1 else layer(x)
        return x


def _art(module: nn.Module, shape: torch.Size) -> Bound | None:
    try:
        from art.estimators.certification.interval import PyTorchIBPClassifier
    except ImportError:
        return None
    wrapped = PyTorchIBPClassifier(
        model=_Flattening(module),
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(shape),
        nb_classes=10,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )

    def bound(a: Tensor, b: Tensor) -> Tensor:
        low, high = (a - _EPS).clamp(0, 1), (a + _EPS).clamp(0, 1)
        both = torch.stack([low, high], 1).numpy()
        with contextlib.redirect_stdout(None):
            found = torch.as_tensor(wrapped.predict_intervals(both, is_interval=True))
        own = found[:, 0].gather(1, b.unsqueeze(1)).squeeze(1)
        return own - found[:, 1].scatter(1, b.unsqueeze(1), -torch.inf).amax(1)

    return bound
