"""Smoothed classifiers: truths of linear ones, what a batch must not change, what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import hardpoint as hp
from hardpoint.bounds.smoothing import (
    Ablation,
    Anytime,
    Encoding,
    Fixed,
    Gaussian,
    IntegerGaussian,
    Laplace,
    OneShotDenoiser,
    Smoothed,
    Uniform,
)
from hardpoint.bounds.smoothing.asking import Base
from hardpoint.bounds.smoothing.sampling import Purpose, chunk_seed
from hardpoint.core.errors import (
    BadModelOutput,
    ConfigError,
    DataError,
    HardpointError,
    ModelError,
    ModelInTrainingMode,
    NonFiniteOutput,
    NothingToTest,
    ThreatError,
)
from hardpoint.models import TorchModel
from hardpoint.models.limits import limit_access
from small_models import (
    BatchNormalised,
    Counted,
    NaNs,
    Noisy,
    Wrapped,
    conv,
    linear,
    mlp,
    points_at,
    rand,
    randn,
    seeded,
    two_sided,
)

WIDE = (-50.0, 50.0)


def test_no_radius_is_beyond_the_border_of_a_linear_model():
    model, normal = two_sided()
    distances = torch.linspace(-2, 2, 120, dtype=torch.float64)
    for estimator in (Fixed(n=3000), Anytime(most=3000)):
        proven = Smoothed(model, Gaussian(0.5)).certify(points_at(normal, distances), estimator=estimator)
        assert bool((proven.radius <= distances.abs()).all())
        near = (distances.abs() > 0.2) & (distances.abs() < 1.0)
        assert bool((proven.radius[near] > 0.7 * distances.abs()[near] - 0.08).all())
        assert torch.equal(proven.predicted[near], (distances > 0).long()[near])
        assert bool((proven.predicted[proven.radius == 0] == -1).all())


@pytest.mark.parametrize("estimator", [Fixed(n=2000), Anytime(most=2000)])
def test_a_radius_that_is_asked_for_is_decided(estimator):
    model, normal = two_sided()
    distances = torch.tensor([0.1, 0.8, 1.2, -0.8], dtype=torch.float64)
    smoothed = Smoothed(model, Gaussian(0.5))
    proven = smoothed.certify(points_at(normal, distances), radius=0.5, estimator=estimator)
    assert proven.certified.tolist() == [False, True, True, True]
    assert proven.predicted[1:].tolist() == [1, 1, 0]
    assert bool((proven.radius[proven.certified] >= 0.5).all())
    assert int(proven.samples.max()) < 2000
    each = smoothed.certify(
        points_at(normal, distances), radius=torch.tensor([0.01, 0.5, 1.2, 0.5]), estimator=estimator
    )
    assert each.certified.tolist() == [True, True, False, True]
    named = smoothed.certify(points_at(normal, distances), radius=hp.L2(0.5), estimator=estimator)
    assert torch.equal(named.hits, proven.hits)
    threat = smoothed.certify(points_at(normal, distances), radius=hp.Threat(hp.L2(0.5)), estimator=estimator)
    assert torch.equal(threat.hits, proven.hits)


def test_stopping_early_gives_the_decision_of_all_draws():
    model, normal = two_sided()
    x = points_at(normal, torch.linspace(0, 1.5, 60, dtype=torch.float64))
    y = torch.ones(60, dtype=torch.int64)
    smoothed, target = Smoothed(model, Gaussian(0.5)), 0.5
    all_ = smoothed.certify(x, y, estimator=Fixed(n=1500, step=50))
    early = smoothed.certify(x, y, radius=target, estimator=Fixed(n=1500, step=50))
    assert torch.equal(early.certified, all_.radius > target)
    assert int(early.samples.sum()) < int(all_.samples.sum()) * 0.8


def test_labels_are_what_is_proven_and_nothing_else():
    model, normal = two_sided()
    x = points_at(normal, torch.tensor([0.8, -0.8], dtype=torch.float64))
    proven = Smoothed(model, Gaussian(0.5)).certify(x, torch.tensor([1, 1]), radius=0.2)
    assert proven.certified.tolist() == [True, False]
    assert proven.predicted.tolist() == [1, -1]
    assert proven.guess.tolist() == [1, 1]


def test_radii_beyond_the_cap_take_no_draws():
    model, normal = two_sided()
    x = points_at(normal, torch.tensor([9.0, 9.0], dtype=torch.float64))
    smoothed = Smoothed(model, Gaussian(0.5))
    proven = smoothed.certify(x, radius=torch.tensor([1.0, 3.0]), estimator=Anytime(most=1000))
    assert proven.certified.tolist() == [True, False]
    assert proven.samples.tolist()[1] == 0
    assert 1.0 < proven.cap < 1.5
    assert bool((smoothed.certify(x, radius=math.inf).samples == 0).all())
    assert torch.equal(proven.recheck(), proven.radius)


@pytest.mark.parametrize(
    "noise", [Gaussian(0.4), Uniform(0.7), Laplace(0.3), Gaussian(0.4, norm=hp.Linf)], ids=str
)
def test_every_noise_stays_within_the_exact_distance(noise):
    model, normal = two_sided(4)
    distances = torch.linspace(0.05, 1.0, 60, dtype=torch.float64)
    proven = Smoothed(model, noise).certify(points_at(normal, distances), estimator=Fixed(n=2000))
    order = {hp.L2: 2.0, hp.L1: math.inf, hp.Linf: 1.0}[noise.norm]
    exact = distances / torch.linalg.vector_norm(normal, order)
    assert bool((proven.radius <= exact).all())
    assert bool((proven.radius > 0).any())


@pytest.mark.parametrize("estimator", [Fixed(n=330, step=70), Anytime(most=330, step=70)])
@pytest.mark.parametrize("radius", [None, 0.3])
def test_neither_batches_nor_company_change_anything(estimator, radius):
    net, x = mlp(dtype=torch.float64), rand(9, 8, dtype=torch.float64)
    smoothed = Smoothed(net, Gaussian(0.5))
    whole = smoothed.certify(x, radius=radius, estimator=estimator)
    for batch in (1, 7, 100, 5000):
        other = smoothed.certify(x, radius=radius, estimator=estimator, batch_size=batch)
        assert all(
            torch.equal(getattr(whole, name), getattr(other, name))
            for name in ("hits", "at", "guess", "radius")
        )
        assert torch.equal(smoothed.predict(x, n=130, batch_size=batch), smoothed.predict(x, n=130))
    alone = smoothed.certify(x[4:5], radius=radius, estimator=estimator)
    assert alone.hits.item() == whole.hits[4].item()
    assert not torch.equal(whole.hits, smoothed.certify(x, estimator=estimator, radius=radius, seed=1).hits)


def test_no_batch_is_larger_than_asked_and_memory_does_not_grow_with_draws():
    class Largest(nn.Module):
        most = 0

        def forward(self, x: Tensor) -> Tensor:
            Largest.most = max(Largest.most, len(x))
            return x[:, :2]

    Smoothed(Largest().eval(), Gaussian(0.2)).certify(
        rand(3, 4), estimator=Fixed(n=5000, step=100), batch_size=64
    )
    assert Largest.most == 64


def test_draws_are_counted():
    Counted.reset()
    net = Counted(linear(torch.eye(2))).eval()
    proven = Smoothed(net, Gaussian(0.01)).certify(
        torch.tensor([[0.9, 0.1]]), radius=0.0, estimator=Anytime(n0=50)
    )
    assert Counted.forward_rows - 50 - int(proven.samples) < 20  # and a few to try the model


def test_seeds_of_chunks_never_meet():
    seeds = {chunk_seed(s, purpose, at) for s in (0, 1, -5) for purpose in Purpose for at in range(2000)}
    assert len(seeds) == 3 * 3 * 2000


def test_random_states_are_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    Smoothed(mlp(), Gaussian(0.1)).certify(rand(2, 8), radius=0.01)
    assert torch.equal(before, torch.get_rng_state())


def test_the_network_is_left_as_it_was():
    net = mlp()
    Smoothed(net, Gaussian(0.1)).certify(rand(2, 8), radius=0.01)
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_predictions_are_made_where_draws_are_clear():
    model, normal = two_sided()
    x = points_at(normal, torch.tensor([1.0, 0.0, -0.6], dtype=torch.float64))
    assert Smoothed(model, Gaussian(0.5)).predict(x).tolist() == [1, -1, 0]


def test_ablated_inputs_are_certified_against_pixels():
    """Classes are told by how many of the pixels that are seen are bright; the network reads the mask."""

    class Majority(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            bright, seen = x[:, :1].flatten(1).sum(1), x[:, 1:].flatten(1).sum(1)
            return torch.stack([seen / 2, bright], 1)

    x = torch.zeros(2, 1, 5, 5)
    x[0] = 1.0
    x[1].flatten()[:14] = 1.0
    smoothed = Smoothed(Majority(), Ablation(3))
    proven = smoothed.certify(x, estimator=Fixed(n=4000))
    assert proven.predicted.tolist()[0] == 1
    assert 3 <= proven.radius[0] <= 5  # 1 - C(25 - r, 3) / C(25, 3) is below one half up to 5
    assert proven.radius[1] == 0
    decided = smoothed.certify(x, radius=hp.L0(3), estimator=Anytime(most=4000))
    assert decided.certified.tolist() == [True, False]
    told = Smoothed(conv(2, channels=2), Ablation(20, Encoding.COMPLEMENT)).certify(
        rand(2, 1, 6, 5), radius=1.0
    )
    assert told.shape == (1, 6, 5)


def test_whole_noise_of_images_agrees_with_the_normal():
    net, x = mlp(), (rand(6, 8) * 255).round() / 255
    smooth, whole = (
        Smoothed(net, noise).certify(x, estimator=Fixed(n=4000))
        for noise in (Gaussian(0.3), IntegerGaussian(0.3))
    )
    assert bool(((smooth.hits - whole.hits).abs() <= 5 * math.sqrt(2 * 4000 / 4)).all())
    with pytest.raises(DataError, match="not on the grid"):
        Smoothed(net, IntegerGaussian(0.3)).certify(rand(6, 8))


def test_draws_that_are_not_sure_are_misses(monkeypatch):
    real = IntegerGaussian.draw

    def half_sure(self, count, *rest):
        drawn = real(self, count, *rest)
        return type(drawn)(drawn.values, torch.arange(count) % 2 == 0)

    monkeypatch.setattr(IntegerGaussian, "draw", half_sure)
    net = linear(torch.tensor([[0.0, 0.0], [5.0, 5.0]]), torch.tensor([0.0, 100.0]))
    proven = Smoothed(net, IntegerGaussian(0.1)).certify(torch.ones(1, 2), estimator=Fixed(n=600))
    assert proven.hits.item() == 300


def test_no_inputs_prove_nothing_and_no_rate():
    smoothed = Smoothed(mlp(), Gaussian(0.5))
    for y in (None, torch.zeros(0, dtype=torch.int64)):
        proven = smoothed.certify(torch.zeros(0, 8), y, radius=0.1)
        assert proven.radius.shape == (0,)
        assert proven.recheck().shape == (0,)
    assert smoothed.predict(torch.zeros(0, 8)).shape == (0,)
    with pytest.raises(NothingToTest):
        _ = proven.rate


class WideNet(nn.Module):
    """Has a convolution of many channels, and views memory if asked to, which channels last does not allow."""

    def __init__(self, views: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 32, 3), nn.Conv2d(32, 8, 3)
        self.last, self.views = nn.Linear(8 * 16, 3), views

    def forward(self, x: Tensor) -> Tensor:
        z = self.second(torch.relu(self.first(x)))
        return self.last(z.view(len(z), -1) if self.views else z.flatten(1))


@pytest.mark.parametrize("views", [False, True])
def test_wide_convolutions_answer_the_same_in_another_format(views):
    net, x = seeded(lambda: WideNet(views)).eval(), rand(4, 1, 8, 8)
    base = Base.of(net, None)
    assert base.channels_last
    suited = base.suited(x)
    assert suited.channels_last is not views
    assert torch.allclose(suited.scores(x), net(x), atol=1e-5)
    proven = Smoothed(net, Gaussian(0.3)).certify(x, estimator=Fixed(n=200))
    assert torch.equal(proven.recheck(), proven.radius)


def test_models_that_show_labels_only_are_certified():
    model = limit_access(TorchModel(mlp(dtype=torch.float64)), "labels")
    x = rand(3, 8, dtype=torch.float64)
    ours = Smoothed(model, Gaussian(0.2), classes=4).certify(x, radius=0.05)
    assert torch.equal(
        ours.hits, Smoothed(mlp(dtype=torch.float64), Gaussian(0.2)).certify(x, radius=0.05).hits
    )
    with pytest.raises(ConfigError, match="give classes"):
        Smoothed(model, Gaussian(0.2)).certify(x)
    with pytest.raises(BadModelOutput):
        Smoothed(model, Gaussian(5.0), classes=2).certify(x)


def test_a_denoiser_is_part_of_what_is_certified():
    net = linear(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    x = torch.tensor([[0.6, 0.4]])
    flipped = Smoothed(net, Gaussian(0.05), denoise=Wrapped(nn.Identity(), after=lambda z: z.flip(1)).eval())
    assert flipped.certify(x, radius=0.05).predicted.tolist() == [1]
    for bad in (nn.Dropout(0.5), "denoise", Wrapped(nn.Identity(), after=lambda z: z[:0]).eval()):
        with pytest.raises(ModelError):
            Smoothed(net, Gaussian(0.05), denoise=bad).certify(x)


def test_a_diffusion_model_that_knows_the_image_finds_it():
    image, kept = rand(1, 3, 4, 4), torch.linspace(0.99, 0.01, 50)

    class Knows(nn.Module):
        def forward(self, point: Tensor, step: Tensor) -> Tensor:
            share = kept[step].view(-1, 1, 1, 1)
            noise = (point - share.sqrt() * (2 * image - 1)) / (1 - share).sqrt()
            return torch.cat([noise, torch.full_like(noise, 7.0)], 1)

    denoiser = OneShotDenoiser(Knows().eval(), kept, 0.25)
    share = float(kept[denoiser.step])
    assert math.sqrt((1 - share) / share) == pytest.approx(0.5, rel=0.05)
    assert torch.allclose(denoiser(image + 0.25 * randn(5, 3, 4, 4)), image.expand(5, -1, -1, -1), atol=1e-4)
    assert not denoiser.training
    for wrong in (torch.tensor([0.1, 0.9]), torch.tensor([1.0, 0.5]), torch.tensor([])):
        with pytest.raises(ConfigError):
            OneShotDenoiser(Knows(), wrong, 0.25)
    with pytest.raises(ConfigError, match="no step"):
        OneShotDenoiser(Knows(), kept, 50.0)


@pytest.mark.parametrize(
    ("made", "error"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 2)), ModelInTrainingMode),
        (lambda: Noisy(mlp(), 0.1).eval(), ModelError),
        (lambda: nn.Sequential(BatchNormalised(), mlp()).eval(), ModelError),
        (lambda: nn.Sequential(NaNs(-100.0), mlp()).eval(), NonFiniteOutput),
        (lambda: nn.Linear(8, 2).eval()(torch.zeros(1, 8)), ModelError),
        (lambda: nn.Linear(5, 2).eval(), ModelError),
        (lambda: nn.Conv1d(8, 2, 1).eval(), HardpointError),
    ],
)
def test_models_that_counts_prove_nothing_of_are_refused(made, error):
    with pytest.raises(error):
        Smoothed(made(), Gaussian(0.5)).certify(rand(3, 8), radius=0.1)


def test_nan_under_much_noise_is_no_answer():
    net = nn.Sequential(NaNs(2.0), mlp()).eval()
    with pytest.raises(NonFiniteOutput):
        Smoothed(net, Gaussian(1.0)).certify(rand(3, 8), estimator=Fixed(n=3000))


X = rand(3, 8)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"x": [[0.5] * 8]}, DataError),
        ({"x": X.long()}, DataError),
        ({"x": X[0]}, DataError),
        ({"x": X + 1}, DataError),
        ({"x": X * math.nan}, DataError),
        ({"x": X, "y": torch.tensor([0, 1])}, DataError),
        ({"x": X, "y": torch.tensor([0, 1, 4])}, DataError),
        ({"x": X, "y": torch.tensor([0, 1, -1])}, DataError),
        ({"x": X, "y": torch.tensor([0.0, 1.0, 2.0])}, DataError),
        ({"x": X, "y": [0, 1, 2]}, DataError),
        ({"x": X, "radius": -0.1}, DataError),
        ({"x": X, "radius": math.nan}, DataError),
        ({"x": X, "radius": torch.ones(2)}, DataError),
        ({"x": X, "radius": "far"}, DataError),
        ({"x": X, "radius": hp.Linf(0.1)}, ThreatError),
        ({"x": X, "radius": hp.L1(0.1)}, ThreatError),
        ({"x": X, "radius": hp.L0(1)}, ThreatError),
        ({"x": X, "alpha": 0.0}, ConfigError),
        ({"x": X, "alpha": 0.5}, ConfigError),
        ({"x": X, "alpha": math.nan}, ConfigError),
        ({"x": X, "seed": 0.5}, ConfigError),
        ({"x": X, "batch_size": 0}, ConfigError),
        ({"x": X, "estimator": Fixed(n=9)}, ConfigError),
        ({"x": X, "estimator": Anytime(most=9)}, ConfigError),
        ({"x": X, "estimator": 100}, ConfigError),
    ],
)
def test_what_cannot_be_asked_is_refused(arguments, error):
    with pytest.raises(error):
        Smoothed(mlp(), Gaussian(0.5)).certify(**arguments)


def test_settings_that_mean_nothing_are_refused():
    for made in (
        lambda: Fixed(n=0),
        lambda: Fixed(n=100.0),
        lambda: Anytime(step=0),
        lambda: Anytime(n0=-1),
        lambda: Anytime(tolerance=0.0),
        lambda: Smoothed(mlp(), 0.25),
        lambda: Smoothed(mlp(), Gaussian(0.25), classes=1),
        lambda: Smoothed(mlp(), Gaussian(0.25), classes=7).certify(X),
        lambda: Smoothed(mlp(), Gaussian(0.25)).predict(X, n=9),
        lambda: Smoothed(mlp(), Ablation(2)).certify(X, radius=0.5),
    ):
        with pytest.raises(HardpointError):
            made()
    assert Smoothed(mlp(), Laplace(0.25)).certifies is hp.L1
