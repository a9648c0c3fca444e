"""Masks are found where they are and nowhere else; crossed straight through, the bare net's weakness shows again."""

from __future__ import annotations

import copy
import functools
import math
import pickle

import pytest
import torch
from torch import nn

from hardpoint.attacks import PGD
from hardpoint.cli.demo.digits import EPS, digits_split, trained_digits_network
from hardpoint.core.errors import ModelError
from hardpoint.core.rng import Rng
from hardpoint.engine.bpda import masked_layers, with_straight_through
from hardpoint.engine.clean import ranked_classes
from hardpoint.engine.crossing import Crossing, CrossingKind, StraightThrough, hadamard_rows
from hardpoint.engine.search import Target, search
from hardpoint.engine.twin import TwinPlan, build_twin
from hardpoint.models.torch import TorchModel
from hardpoint.threats import Linf, Threat
from small_models import Detach, Quantise, Sign, Wrapped, conv, mlp, rand, seeded

pytest.importorskip("sklearn")


class Jpeg(nn.Module):
    """Rounds the coefficients of an 8x8 cosine transform."""

    def __init__(self, step=0.1):
        super().__init__()
        k = torch.arange(8.0)
        basis = torch.cos(math.pi * (2 * k + 1) * k.unsqueeze(1) / 16) / 2
        basis[0] /= math.sqrt(2)
        self.register_buffer("basis", basis)
        self.step = step

    def forward(self, x):
        c = self.basis @ x @ self.basis.T
        return self.basis.T @ (torch.round(c / self.step) * self.step) @ self.basis


class MeanSparse(nn.Module):
    """What lies within tau deviations of its channel's mean becomes the mean (Amini et al., 2024)."""

    def __init__(self, sample, tau=0.2):
        super().__init__()
        axes = [0, *range(2, sample.dim())]
        self.register_buffer("mean", sample.mean(axes, keepdim=True))
        self.register_buffer("band", tau * sample.std(axes, keepdim=True))

    def forward(self, x):
        return torch.where((x - self.mean).abs() <= self.band, self.mean.expand_as(x), x)


class Winners(nn.Module):
    """Keeps the largest share of each input's numbers."""

    def __init__(self, share=0.5):
        super().__init__()
        self.share = share

    def forward(self, x):
        flat = x.flatten(1)
        least = flat.topk(max(1, int(self.share * flat.shape[1])), dim=1).values[:, -1:]
        return (flat * (flat >= least)).view_as(x)


class QuantisedRows(nn.Module):
    """Another shape out than in: straight-through has nothing to pass."""

    def forward(self, x):
        return torch.round(8 * x.flatten(1)) / 8


class Negative(nn.Module):
    """The same shape, but the wrong way round: passing the gradient as it is would lead away."""

    def forward(self, x):
        return torch.round(8 * (1 - x)) / 8


@functools.cache
def digits():
    (train, _), (x, y) = digits_split()
    return train[:64], x[:200], y[:200]


def hardened() -> nn.Sequential:
    return trained_digits_network("hardened")


def mean_sparse(tau: float) -> nn.Sequential:
    """The hardened net with the operator before every ReLU."""
    (train, _), _ = digits_split()
    layers, a = [], train[:512]
    with torch.no_grad():
        for layer in hardened():
            if isinstance(layer, nn.ReLU):
                layers.append(MeanSparse(a, tau))
            layers.append(layer)
            a = layer(a)
    return nn.Sequential(*layers).eval()


MASKS = {
    "quantise": lambda: nn.Sequential(Quantise(8), hardened()),
    "coarse": lambda: nn.Sequential(Quantise(4), hardened()),
    "jpeg": lambda: nn.Sequential(Jpeg(), hardened()),
    "detach": lambda: nn.Sequential(Detach(), hardened()),
    "winners": lambda: nn.Sequential(Winners(), hardened()),
    "mean sparse": lambda: mean_sparse(0.2),
    "rows": lambda: nn.Sequential(QuantisedRows(), Wrapped(hardened(), before=lambda z: z.view(-1, 1, 8, 8))),
    "negative": lambda: nn.Sequential(Negative(), Wrapped(hardened(), before=lambda z: 1 - z)),
}


def robust(module, searched) -> float:
    """Accuracy of ``module`` under PGD that searches on ``searched`` and is verified on ``module``."""
    _, x, y = digits()
    model = TorchModel(module.eval())
    right = (model.predict(x) == y).nonzero().squeeze(1)
    target = Target(model, TwinPlan(), 256)
    found = search(
        PGD(steps=25, loss="margin", decay=True),
        target,
        build_twin(TorchModel(searched.eval()), TwinPlan()),
        Threat(Linf(EPS)),
        x[right],
        y[right],
        right,
        ranked_classes(model.scores(x[right])),
        rng=Rng(0),
    )
    return int((~found.broken).sum()) / len(x)


@functools.cache
def bare() -> float:
    return robust(hardened(), hardened())


# --- planted masks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MASKS)
def test_a_planted_mask_is_found_and_crossed(name):
    module, (pilot, x, _) = MASKS[name]().eval(), digits()
    found = masked_layers(module, pilot)
    expected = [key for key, layer in module.named_modules() if isinstance(layer, MeanSparse)] or ["0"]
    assert [mask.name for mask in found] == expected
    assert all(mask.replaceable for mask in found)
    twin = with_straight_through(module, tuple(mask.name for mask in found), pilot)
    assert torch.equal(twin(x), module(x))
    point = x.clone().requires_grad_(True)
    assert torch.equal(twin(point), module(x))  # also where the other gradient is recorded
    through = robust(module, twin)
    assert through <= bare() + 0.02
    if name not in ("winners", "mean sparse"):  # these let some of the gradient through
        assert robust(module, module) >= bare() + 0.2


def test_total_masks_explain_nothing_and_mean_sparse_what_it_leaves():
    pilot, _, _ = digits()
    for mask in (Quantise(8), Quantise(255), Jpeg(), Detach(), Sign()):
        (found,) = masked_layers(nn.Sequential(mask, hardened()), pilot - 0.5)
        assert (found.zero_share, found.change_share) == (1.0, pytest.approx(1.0, abs=1e-3))
        assert found.crossing is not None
        assert found.crossing.kind is CrossingKind.IDENTITY
    shares = []
    for tau in (0.2, 0.5, 1.0):
        net = mean_sparse(tau)
        found = masked_layers(net, pilot)
        inputs = hardened()[0](pilot[:32])
        flat = ((inputs - net[1].mean).abs() <= net[1].band).double().mean()
        assert len(found) == 3
        assert found[0].zero_share == pytest.approx(float(flat), abs=1e-3)
        shares.append(found[0].change_share)
    assert shares == sorted(shares)
    assert shares[0] > 0.1
    assert shares[-1] > 0.5


def test_layers_that_identity_cannot_stand_in_for_are_smoothed():
    pilot, _, _ = digits()
    for mask in (QuantisedRows(), Negative()):
        (found,) = masked_layers(nn.Sequential(mask, nn.Flatten(), nn.Linear(64, 3)).eval(), pilot)
        assert found.crossing is not None
        assert found.crossing.kind is CrossingKind.SMOOTHED
        assert found.crossing.width > 0


# --- honest models ---------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(x + self.norm(self.conv(x)))


class Attentive(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(8, 16)
        self.layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.head = nn.Linear(128, 10)

    def forward(self, x):
        return self.head(self.layer(src=self.embed(x[:, 0])).flatten(1))


class RoundWithGradient(nn.Module):
    """Rounding that already passes its gradient on."""

    def forward(self, x):
        return x + (torch.round(16 * x) / 16 - x).detach()


HONEST = {
    "digits": hardened,
    "plain digits": lambda: trained_digits_network("plain"),
    "residual": lambda: nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        Block(),
        Block(),
        nn.MaxPool2d(2),
        Block(),
        nn.Flatten(),
        nn.Linear(128, 10),
    ),
    "attention": Attentive,
    "activations": lambda: nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.GELU(),
        nn.GroupNorm(2, 8),
        nn.LeakyReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.5),
        nn.Hardtanh(-0.1, 0.1),
        nn.AvgPool2d(2),
        nn.BatchNorm2d(8),
        nn.Hardswish(),
        nn.Flatten(),
        nn.Linear(32, 10),
        nn.Softmax(1),
    ),
    "steep": lambda: nn.Sequential(
        Wrapped(nn.Identity(), after=lambda z: torch.sigmoid(200 * (z - 0.5))), hardened()
    ),
    "rounds with gradient": lambda: nn.Sequential(RoundWithGradient(), hardened()),
    "roots": lambda: nn.Sequential(Wrapped(nn.ReLU(), after=torch.sqrt), nn.Flatten(), nn.Linear(64, 3)),
    "constant": lambda: nn.Sequential(Wrapped(nn.Identity(), after=lambda z: 0 * z), nn.Flatten()),
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_models_are_not_accused(name):
    pilot, _, _ = digits()
    module = seeded(HONEST[name])
    module.train()
    with torch.no_grad():
        module(pilot)  # batch norms have statistics
    assert masked_layers(module.eval(), pilot) == ()


def test_honest_small_nets_of_both_precisions_are_not_accused():
    for seed in range(4):
        for dtype in (torch.float32, torch.float64):
            assert masked_layers(mlp(seed=seed, dtype=dtype), rand(32, 8, seed=seed, dtype=dtype)) == ()
            assert masked_layers(conv(seed=seed, dtype=dtype), rand(32, 2, 6, 5, dtype=dtype)) == ()


# --- masks that cannot be taken out ----------------------------------------------------------------------------


class RoundsItself(nn.Module):
    """Masks in its own forward, with honest layers inside."""

    def __init__(self):
        super().__init__()
        self.body = hardened()

    def forward(self, x):
        return self.body(torch.round(8 * x) / 8)


def test_a_mask_written_into_forward_is_reported_and_refused():
    pilot, _, _ = digits()
    for module, name in (
        (RoundsItself(), ""),
        (Wrapped(RoundsItself()), "inner"),
        (QuantisedRows(), ""),
    ):
        (found,) = masked_layers(module.eval(), pilot)
        assert (found.name, found.replaceable) == (name, False)
        assert found.change_share > 0.9
        with pytest.raises(ModelError, match="forward"):
            with_straight_through(module, (found.name,), pilot)


def test_names_that_lead_nowhere_are_refused():
    pilot, _, _ = digits()
    net = hardened()
    net.add_module("unused", nn.Identity())
    net.__class__ = type(
        "Skips", (nn.Sequential,), {"forward": lambda self, x: nn.Sequential(*list(self)[:-1])(x)}
    )
    with pytest.raises(ModelError, match="no layer 'nowhere'"):
        with_straight_through(net, ("nowhere",), pilot)
    with pytest.raises(ModelError, match="'unused' is not called"):
        with_straight_through(net, ("unused",), pilot)


# --- the copy --------------------------------------------------------------------------------------------------


def test_the_gradient_is_the_bare_nets_at_the_masked_point():
    pilot, x, _ = digits()
    module, net = nn.Sequential(Quantise(4), hardened()).eval(), hardened()
    twin = with_straight_through(module, ("0",), pilot)
    point, masked = x.clone().requires_grad_(True), module[0](x).requires_grad_(True)
    (ours,) = torch.autograd.grad(twin(point).logsumexp(1).sum(), point)
    (known,) = torch.autograd.grad(net(masked).logsumexp(1).sum(), masked)
    assert torch.equal(ours, known)


def test_a_smoothed_gradient_points_the_right_way_and_does_not_depend_on_the_batch():
    pilot, x, _ = digits()
    module = MASKS["rows"]().eval()
    twin = with_straight_through(module, ("0",), pilot)
    net = hardened()

    def gradient(m, z):
        point = z.clone().requires_grad_(True)
        return torch.autograd.grad(m(point)[:, 0].sum(), point)[0]

    ours, known = gradient(twin, x), gradient(net, x)
    cosine = torch.cosine_similarity(ours.flatten(1), known.flatten(1), dim=1)
    assert float(cosine.mean()) > 0.9
    assert torch.allclose(gradient(twin, x[3:5]), ours[3:5], atol=1e-6)


def test_directions_are_orthogonal_and_a_few_of_many_dimensions_still_point_right():
    for size, most in ((1, 64), (2, 64), (64, 64), (48, 64), (64, 16)):
        rows = hadamard_rows(size, most)
        assert set(rows.unique().tolist()) <= {-1.0, 1.0}
        if size & (size - 1) == 0:
            assert torch.equal(rows @ rows.T, size * torch.eye(len(rows)))
    layer = StraightThrough(nn.Flatten(), Crossing(CrossingKind.SMOOTHED, 0.1))
    point = rand(20, 3, 10, 20).requires_grad_(True)
    wanted = rand(600, seed=3)
    (gradient,) = torch.autograd.grad((layer(point) * wanted).sum(), point)
    cosine = torch.cosine_similarity(gradient.flatten(1), wanted.expand(20, 600), dim=1)
    assert float(cosine.mean()) == pytest.approx(math.sqrt(64 / 600), abs=0.06)
    assert float((gradient[0] - gradient[1]).abs().max()) > 0  # other rows, other signs


def test_a_layer_held_twice_is_crossed_twice_and_attributes_stay_readable():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = self.second = Quantise(4)
            self.head = nn.Linear(64, 3)

        def forward(self, x):
            scaled = self.first(x) * (self.second.levels / 4)
            return self.head(self.second(scaled).flatten(1))

    pilot, x, _ = digits()
    module = seeded(Twice).eval()
    twin = with_straight_through(module, ("first",), pilot)
    assert torch.equal(twin(x), module(x))
    point = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(twin(point)[:, 0].sum(), point)
    assert torch.allclose(gradient.flatten(1), module.head.weight[0].expand(len(x), 64))


def test_copies_of_the_copy_keep_its_gradient_whatever_they_are_made_for():
    pilot, x, _ = digits()
    module = nn.Sequential(Quantise(8), nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
    module = seeded(lambda: nn.Sequential(*module, nn.Flatten(), nn.Linear(72, 4))).eval()
    twin = with_straight_through(module, ("0",), pilot)
    plans = (TwinPlan(folded=True), TwinPlan(lean=True), TwinPlan(folded=True, channels_last=True))
    copies = [copy.deepcopy(twin), pickle.loads(pickle.dumps(twin))]
    copies += [build_twin(TorchModel(twin), plan).raw_scores for plan in plans]

    def gradient(m):
        point = x.clone().requires_grad_(True)
        return torch.autograd.grad(m(point)[:, 0].sum(), point)[0]

    known = gradient(twin)
    assert known.any()
    for made in copies:
        assert torch.allclose(gradient(made), known, atol=1e-5)


def test_the_module_and_the_random_state_are_left_as_they_were():
    pilot, _, _ = digits()
    module = nn.Sequential(Quantise(8), hardened())
    module[1][0].weight.grad = torch.ones_like(module[1][0].weight)
    before = copy.deepcopy(module.state_dict())
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in module.modules()]
    state, x = torch.get_rng_state(), pilot.clone()
    masked_layers(module, pilot)
    with_straight_through(module, ("0",), pilot)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(pilot, x)
    assert hooks == [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in module.modules()]
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert all(p.requires_grad for p in module.parameters())
    assert torch.equal(module[1][0].weight.grad, torch.ones_like(module[1][0].weight))


def test_random_layers_are_compared_on_the_same_draws():
    class Drops(nn.Module):
        def forward(self, x):
            return x * (torch.rand_like(x) > 0.3)

    class RoundsAndDrops(Drops):
        def forward(self, x):
            return super().forward(torch.round(8 * x) / 8)

    pilot, _, _ = digits()
    assert masked_layers(nn.Sequential(Drops(), hardened()).eval(), pilot) == ()
    (found,) = masked_layers(nn.Sequential(RoundsAndDrops(), hardened()).eval(), pilot)
    assert found.name == "0"


def test_one_input_or_equal_ones_show_nothing():
    module = nn.Sequential(Quantise(8), nn.Flatten(), nn.Linear(64, 3)).eval()
    pilot, _, _ = digits()
    assert masked_layers(module, pilot[:1]) == ()
    assert masked_layers(module, pilot[:1].expand(8, -1, -1, -1)) == ()
