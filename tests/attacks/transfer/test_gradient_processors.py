"""Each gradient processor against what it is by definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hardpoint.attacks.transfer import DiverseInput, Momentum, TranslationInvariant, VarianceTuning
from hardpoint.attacks.transfer.processor import Moment
from hardpoint.core.box import Box
from hardpoint.core.rng import Rng
from hardpoint.engine.attack import Task
from hardpoint.threats import L2, Linf, Untargeted
from small_models import rand, randn


def moment(x: Tensor, ball=None, box: Box | None = None, turn: int = 1) -> Moment:
    n, box = len(x), box or Box(0.0, 1.0)
    task = Task(
        index=torch.arange(n),
        y=torch.zeros(n, dtype=torch.int64),
        region=(ball or Linf(0.1)).around(x, box),
        ranked=torch.empty(n, 0, dtype=torch.int64),
        turn=torch.full((n,), turn),
        goal=Untargeted(),
        box=box,
        rng=Rng(0),
    )
    return Moment(task, torch.full((n,), 0.01, dtype=x.dtype))


def nothing(x: Tensor, draw: int) -> Tensor:
    raise AssertionError("no further gradient is needed")


# --- diverse inputs --------------------------------------------------------------------------------------------


def test_a_view_is_the_input_shrunk_and_put_somewhere():
    """Ones come out as one rectangle of ones, a shrunk copy of a ramp as an increasing sequence of its numbers."""
    x = torch.ones(400, 2, 10, 7)
    seen = DiverseInput(smallest=0.5, probability=1.0).view(x, 0, 0, moment(x))
    assert set(seen.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(seen[:, 0], seen[:, 1])
    heights, widths = seen[:, 0].amax(2).sum(1), seen[:, 0].amax(1).sum(1)
    assert torch.equal(seen[:, 0].sum((1, 2)), heights * widths)
    assert set(heights.tolist()) == {5.0, 6.0, 7.0, 8.0, 9.0}
    assert set(widths.tolist()) == {3.0, 4.0, 5.0, 6.0}
    first_rows = seen[:, 0].amax(2).to(torch.int64).argmax(1)
    assert set(first_rows[heights == 5].tolist()) == set(range(6))
    ramp = torch.arange(1.0, 11.0).view(1, 1, 10, 1).expand(50, 1, 10, 7) / 10
    for image in DiverseInput(smallest=0.5, probability=1.0).view(ramp, 0, 0, moment(ramp)):
        column = image[0].amax(1)
        column = column[column > 0]
        assert (column.diff() > 0).all()
        assert float(column[0]) < 0.25
        assert float(column[-1]) >= 0.9


def test_views_happen_as_often_as_asked_and_differ_by_draw_and_turn():
    x = rand(600, 1, 8, 8) + 0.1
    for probability in (0.0, 0.3, 1.0):
        view = DiverseInput(smallest=0.6, probability=probability).view(x, 0, 0, moment(x))
        same = (view == x).flatten(1).all(1).double().mean()
        assert float(same) == pytest.approx(1 - probability, abs=0.06)
    processor = DiverseInput(smallest=0.5, probability=1.0)
    views = [processor.view(x, 0, draw, moment(x, turn=turn)) for draw, turn in ((0, 1), (1, 1), (0, 2))]
    assert not torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])


def test_the_canvas_is_the_nearest_allowed_number_to_zero_and_gradients_reach_only_what_shows():
    x = (1 + rand(20, 1, 6, 6)).requires_grad_(True)
    view = DiverseInput(smallest=0.5, probability=1.0).view(x, 0, 0, moment(x.detach(), box=Box(1.0, 2.0)))
    assert float(view.detach().min()) == 1.0
    (counts,) = torch.autograd.grad(view.sum(), x)
    shown = (view != 1.0).flatten(1).sum(1)
    assert torch.equal(counts.flatten(1).sum(1), shown.to(counts.dtype))


# --- directions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 7])
def test_blurring_is_a_convolution_with_a_gaussian(size):
    x = torch.zeros(1, 1, 15, 13)
    x[0, 0, 7, 6] = 1.0
    seen, _ = TranslationInvariant(size).refine(x, x, x, nothing, moment(x))
    half, sigma = size // 2, size / 6
    line = torch.exp(-torch.arange(-half, half + 1).square() / (2 * sigma**2))
    line /= line.sum()
    assert torch.allclose(
        seen[0, 0, 7 - half : 8 + half, 6 - half : 7 + half], torch.outer(line, line), atol=1e-6
    )
    assert float(seen.sum()) == pytest.approx(1.0, abs=1e-5)


def test_blurring_is_the_mean_over_shifts_and_keeps_channels_apart():
    x = randn(3, 2, 9, 8, dtype=torch.float64)
    seen, _ = TranslationInvariant(3).refine(x, x, x, nothing, moment(x))
    weight = torch.exp(-torch.tensor([-2.0, 0.0, 2.0], dtype=torch.float64).square() / 2)
    weight /= weight.sum()
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    known = sum(
        weight[i] * weight[j] * padded[:, :, i : i + 9, j : j + 8] for i in range(3) for j in range(3)
    )
    assert torch.allclose(seen, known)
    signal = randn(3, 2, 20, dtype=torch.float64)
    blurred, _ = TranslationInvariant(3).refine(signal, signal, signal, nothing, moment(signal))
    padded = torch.nn.functional.pad(signal, (1, 1))
    assert torch.allclose(blurred, sum(weight[i] * padded[:, :, i : i + 20] for i in range(3)))


def test_the_default_blur_has_the_papers_share_of_the_image():
    for side, size in ((299, 15), (224, 11), (32, 3), (8, 3)):
        x = torch.zeros(1, 1, 1, side)
        x[..., side // 2] = 1.0
        seen, _ = TranslationInvariant().refine(x, x, x, nothing, moment(x))
        assert int((seen != 0).sum()) == size


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_momentum_adds_gradients_whatever_their_length(scale):
    x, kept = rand(4, 6), torch.zeros(4, 6)
    for number in range(1, 4):
        total, kept = Momentum(1.0).refine(scale * torch.ones(4, 6), x, kept, nothing, moment(x))
        assert torch.allclose(total, torch.full((4, 6), float(number)))
    faded, _ = Momentum(0.5).refine(torch.zeros(4, 6), x, kept, nothing, moment(x))
    assert torch.allclose(faded, torch.full((4, 6), 1.5))


def test_looking_ahead_goes_one_faded_step_further():
    x, total = rand(3, 4), 2 * torch.ones(3, 4)
    assert torch.equal(Momentum(1.0).look(x, total, moment(x)), x)
    ahead = Momentum(0.5, nesterov=True).look(x, total, moment(x))
    assert torch.allclose(ahead - x, torch.full((3, 4), 0.01), atol=1e-6)
    in_l2 = Momentum(0.5, nesterov=True).look(x, total, moment(x, L2(0.3)))
    assert torch.allclose((in_l2 - x).norm(dim=1), torch.full((3,), 0.01), atol=1e-6)


@pytest.mark.parametrize("ball", [Linf(0.1), L2(0.4)], ids=lambda b: b.name)
def test_variance_is_how_much_the_neighbours_gradients_differ(ball):
    x = 0.5 * torch.ones(50, 12, dtype=torch.float64)
    asked: list[Tensor] = []

    def flat(point: Tensor, draw: int) -> Tensor:
        asked.append(point)
        return torch.ones_like(point)

    tuning, now = VarianceTuning(neighbours=6, radius=2.0), moment(x, ball)
    gradient, kept = tuning.refine(torch.ones_like(x), x, 3 * torch.ones_like(x), flat, now)
    assert torch.equal(gradient, torch.full_like(x, 4.0))  # what was kept is added
    assert not kept.any()  # a linear function's gradient is the same everywhere
    assert len(asked) == 6
    away = torch.stack([ball.around(x, Box(-9.0, 9.0)).distance(point) for point in asked])
    assert float(away.max()) <= 2 * ball.eps + 1e-9
    assert float(away.max()) > 1.5 * ball.eps
    assert len({float(a) for a in away.flatten()}) == away.numel()
    _, bent = tuning.refine(2 * x, x, torch.zeros_like(x), lambda point, _: 2 * point, now)
    assert torch.allclose(bent, 2 * (torch.stack(asked).mean(0) - x))
