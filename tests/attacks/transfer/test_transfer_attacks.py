"""Transfer attacks: linear truths, the papers' loops written out, queries, batch mates, surrogates left as they were."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from hardpoint.attacks import PGD, Transfer
from hardpoint.attacks.losses import Loss, untargeted
from hardpoint.attacks.transfer import (
    DiverseInput,
    Momentum,
    ScaleInvariant,
    TranslationInvariant,
    VarianceTuning,
)
from hardpoint.core.box import Box
from hardpoint.core.errors import ModelInTrainingMode, ThreatError
from hardpoint.models.limits import limit_access
from hardpoint.models.torch import TorchModel
from hardpoint.threats import L0, L1, L2, Linf, Targeted, Threat
from small_models import Counted, Ledger, conv, labelled, linear, mlp, rand, randn, worst_margin

PLAIN = [
    (),
    (Momentum(1.0),),
    (Momentum(0.5, nesterov=True),),
    (Momentum(1.0), VarianceTuning(neighbours=3)),
]
EVERYTHING = (
    Momentum(1.0, nesterov=True),
    DiverseInput(smallest=0.6, probability=0.7),
    TranslationInvariant(3),
    ScaleInvariant(2),
    VarianceTuning(neighbours=2),
)


def labels_threat(ball, queries=None) -> Threat:
    return Threat(ball, access="labels", queries=queries)


# --- linear models: every step points the same way, so the attack must end at the exact worst case --------------


@pytest.mark.parametrize("processors", PLAIN, ids=lambda p: "-".join(x.tag for x in p) or "none")
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_linear_surrogate_of_a_linear_target_leads_to_the_worst_case(processors, norm, dtype):
    weight = randn(2, 10, seed=3, dtype=dtype)
    bias = -0.5 * weight.sum(1)  # the boundary goes through the middle of the inputs
    x = 0.3 + 0.4 * rand(40, 10, seed=1, dtype=dtype)  # far from the ends of the box in Linf and L2
    target = linear(weight, bias)
    y = labelled(target, x)
    g, dual = weight[1] - weight[0], {"linf": 1, "l2": 2, "l1": torch.inf}[norm]
    eps = float(((x - 0.5) @ g).abs().median() / torch.linalg.vector_norm(g, ord=dual))  # about half can fall
    ball = {"linf": Linf, "l2": L2, "l1": L1}[norm](eps)
    worst = worst_margin(weight, bias, x, y, norm, eps)
    attack = Transfer(surrogates=linear(3 * weight, 3 * bias + 1), processors=processors, steps=8)
    result = attack(target, x, y, labels_threat(ball))
    sure = worst.abs() > 1e-4
    assert torch.equal(result.broken[sure], worst[sure] > 0)
    assert 5 < int(result.broken.sum()) < 35
    assert (result.queries[sure] == 1).all()  # what lies on the boundary itself may be asked again


def test_in_l0_the_chosen_numbers_go_all_the_way():
    weight = torch.tensor([[0.0] * 6, [3.0, 1.0, 0.1, 0.1, 0.1, 0.1]])
    target = linear(weight, torch.tensor([3.5, 0.0]))
    x = torch.full((3, 6), 0.2)
    attack = Transfer(surrogates=target, steps=5)
    assert attack(target, x, torch.zeros(3).long(), labels_threat(L0(2))).broken.all()
    assert not attack(target, x, torch.zeros(3).long(), labels_threat(L0(1))).broken.any()


# --- the papers' loops, written out ----------------------------------------------------------------------------


def final_point(attack, x, y, eps):
    """What the target is asked about."""
    ledger = Ledger(mlp(dtype=x.dtype), "labels")
    attack(ledger, x, y, labels_threat(Linf(eps)))
    return torch.cat(ledger.asked["labels"])


def slope(net, x, y):
    point = x.clone().requires_grad_(True)
    return torch.autograd.grad(untargeted(Loss.CE, net(point), y).sum(), point)[0]


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("scales", [1, 4])
@pytest.mark.parametrize("decay", [0.0, 0.6, 1.0])
def test_momentum_nesterov_and_scales_are_the_papers(nesterov, scales, decay):
    target, surrogate = mlp(dtype=torch.float64), mlp(seed=7, dtype=torch.float64)
    x, eps, steps = rand(12, 8, seed=2, dtype=torch.float64), 0.09, 6
    y = labelled(target, x)
    z, g, alpha = x, torch.zeros_like(x), eps / steps
    for _ in range(steps):
        ahead = z + alpha * decay * g if nesterov else z
        gradient = sum(0.5**i * slope(surrogate, ahead * 0.5**i, y) for i in range(scales)) / scales
        g = decay * g + gradient / gradient.abs().mean(1, keepdim=True)
        z = torch.clamp(torch.clamp(z + alpha * g.sign(), x - eps, x + eps), 0, 1)
    attack = Transfer(
        surrogates=surrogate, processors=(Momentum(decay, nesterov), ScaleInvariant(scales)), steps=steps
    )
    asked = final_point(attack, x, y, eps)
    for known in z:
        assert float((asked - known).abs().amax(1).min()) < 1e-9


def test_an_ensemble_follows_the_mean_of_the_logits():
    target = mlp(dtype=torch.float64)
    both = (mlp(seed=7, dtype=torch.float64), mlp(seed=8, dtype=torch.float64))
    x, eps = rand(12, 8, seed=2, dtype=torch.float64), 0.05
    y = labelled(target, x)
    gradient = slope(lambda z: (both[0](z) + both[1](z)) / 2, x, y)
    known = torch.clamp(x + eps * gradient.sign(), 0, 1)
    asked = final_point(Transfer(surrogates=both, processors=(), steps=1), x, y, eps)
    for row in known:
        assert float((asked - row).abs().amax(1).min()) < 1e-9


# --- queries and passes ----------------------------------------------------------------------------------------


def test_the_target_is_asked_for_labels_once_or_as_often_as_wished():
    net, x = mlp(), rand(10, 8)
    y = labelled(net, x)
    for every, asked in ((None, 1), (3, 4), (5, 2), (1, 10), (99, 1)):
        ledger = Ledger(net, "labels")
        attack = Transfer(surrogates=mlp(seed=5), steps=10, ask_every=every)
        result = attack(ledger, x, y, labels_threat(Linf(1e-4)))
        assert result.queries.tolist() == [asked] * 10
        assert not ledger.asked["scores"]
        assert result.passes.backward == 0


@pytest.mark.parametrize("queries", [1, 2, 7])
def test_queries_never_exceed_the_threats(queries):
    net, x = mlp(), rand(20, 8)
    result = Transfer(surrogates=mlp(seed=5), ask_every=1)(
        net, x, labelled(net, x), labels_threat(Linf(0.05), queries)
    )
    assert int(result.queries.max()) == queries


def test_an_input_leaves_at_the_checkpoint_that_fools_the_target():
    net, x = mlp(), rand(60, 8)
    y = labelled(net, x)
    once, often = (
        Transfer(surrogates=net, steps=10, ask_every=every)(net, x, y, labels_threat(Linf(0.3)))
        for every in (None, 2)
    )
    assert int(often.broken.sum()) >= int(once.broken.sum()) > 20
    fell = often.broken & once.broken
    assert float(often.distance[fell].mean()) < float(once.distance[fell].mean())
    assert int(often.queries[often.broken].min()) < 5


@pytest.mark.parametrize("processors", [(), (Momentum(),), EVERYTHING], ids=len)
def test_surrogate_passes_are_those_an_independent_counter_sees(processors):
    net, x = conv(), rand(6, 2, 6, 5)
    surrogates = (Counted(conv(seed=3)), Counted(conv(seed=4)))
    attack = Transfer(surrogates=surrogates, processors=processors, steps=3)
    Counted.reset()
    attack(net, x, labelled(net, x), labels_threat(Linf(0.0)))
    assert (Counted.forward_rows, Counted.backward_rows) == (6 * attack.surrogate_passes,) * 2
    assert attack.surrogate_passes == 3 * 2 * (2 * 3 if processors is EVERYTHING else 1)


# --- batch mates, seeds, order ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ball", [Linf(0.1), L2(0.5), L1(1.5)], ids=lambda b: b.name)
@pytest.mark.parametrize("every", [None, 2])
def test_results_do_not_depend_on_the_batch_or_the_company(ball, every):
    net, surrogate = (conv(dtype=torch.float64, seed=s) for s in (0, 3))
    x = rand(16, 2, 6, 5, seed=1, dtype=torch.float64)
    y = labelled(net, x)
    attack = Transfer(surrogates=surrogate, processors=EVERYTHING, steps=4, ask_every=every)
    runs = [attack(net, x, y, labels_threat(ball), batch_size=size) for size in (1, 7, 64)]
    for run in runs[1:]:
        assert torch.equal(run.broken, runs[0].broken)
        assert torch.allclose(run.adversarial, runs[0].adversarial, rtol=0, atol=1e-9)
        assert torch.equal(run.queries[~run.broken], runs[0].queries[~run.broken])
    half = attack(net, x[:9], y[:9], labels_threat(ball))
    assert torch.equal(half.broken, runs[0].broken[:9])
    assert torch.allclose(half.adversarial, runs[0].adversarial[:9], rtol=0, atol=1e-9)
    other = attack(net, x, y, labels_threat(ball), seed=1)
    assert not torch.equal(other.adversarial, runs[2].adversarial)


def test_processors_may_be_given_in_any_order():
    known = Transfer(surrogates=conv(), processors=EVERYTHING)
    for shuffled in itertools.islice(itertools.permutations(EVERYTHING), 0, 120, 17):
        attack = Transfer(surrogates=known.surrogates, processors=shuffled)
        assert attack.processors == known.processors
        assert attack.name == "Transfer-ce 10 SI DI VT TI MI from 1"


def test_logits_may_be_shifted_and_scaled():
    net, x = mlp(dtype=torch.float64), rand(30, 8, dtype=torch.float64)
    y = labelled(net, x)
    bent = nn.Sequential(mlp(seed=4, dtype=torch.float64), nn.Linear(4, 4)).double().eval()
    with torch.no_grad():
        bent[1].weight.copy_(50 * torch.eye(4))
        bent[1].bias.fill_(-100.0)
    for loss in ("margin", "dlr"):
        plain, shifted = (
            Transfer(surrogates=s, loss=loss)(net, x, y, labels_threat(Linf(0.2)))
            for s in (mlp(seed=4, dtype=torch.float64), bent)
        )
        assert torch.equal(plain.broken, shifted.broken)
        assert plain.broken.any()


# --- strength --------------------------------------------------------------------------------------------------


def test_with_the_target_itself_as_surrogate_it_is_nearly_a_white_box_attack():
    net, x = mlp(), rand(100, 8)
    y = labelled(net, x)
    white = PGD(steps=20)(net, x, y, Linf(0.1)).broken
    for processors in ((Momentum(),), (Momentum(nesterov=True),), (Momentum(), VarianceTuning(5))):
        black = Transfer(surrogates=net, processors=processors)(net, x, y, labels_threat(Linf(0.1))).broken
        assert int((black & white).sum()) >= 0.9 * int(white.sum()) > 10


def test_a_targeted_goal_is_pursued():
    net, x = mlp(), rand(60, 8)
    y = labelled(net, x)
    threat = Threat(Linf(0.4), goal=Targeted(2), access="labels")
    result = Transfer(surrogates=net, steps=20)(net, x, y, threat)
    fell = result.broken & (y != 2)
    assert fell.any()
    assert (net(result.adversarial[fell]).argmax(1) == 2).all()


def test_signals_and_images_of_any_shape_and_vectors_without_neighbourhood():
    for shape in ((2, 20), (3, 7, 4), (2, 3, 5, 6)):
        x = rand(6, *shape)
        net = linear(randn(3, x[0].numel(), seed=1))
        result = Transfer(surrogates=net, processors=EVERYTHING, steps=3)(
            net, x, labelled(net, x), labels_threat(Linf(0.2))
        )
        assert result.adversarial.shape == x.shape
    net, x = mlp(), rand(4, 8)
    for processor in (DiverseInput(), TranslationInvariant()):
        with pytest.raises(ThreatError, match="images"):
            Transfer(surrogates=net, processors=(processor,))(
                net, x, labelled(net, x), labels_threat(Linf(0.1))
            )


# --- surrogates ------------------------------------------------------------------------------------------------


def test_surrogates_are_left_as_they_were_and_named_by_their_weights():
    surrogate = conv(seed=3)
    surrogate[0].bias.requires_grad_(False)
    surrogate[7].weight.grad = torch.ones_like(surrogate[7].weight)
    before = [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in surrogate.parameters()]
    values = {k: v.clone() for k, v in surrogate.state_dict().items()}
    net, x = conv(), rand(8, 2, 6, 5)
    attack = Transfer(surrogates=surrogate, processors=EVERYTHING, steps=2)
    state = torch.get_rng_state()
    attack(net, x, labelled(net, x), labels_threat(Linf(0.1)))
    assert torch.equal(torch.get_rng_state(), state)
    for p, (wanted, grad) in zip(surrogate.parameters(), before, strict=True):
        assert p.requires_grad == wanted
        assert (p.grad is None) == (grad is None)
    assert all(torch.equal(v, values[k]) for k, v in surrogate.state_dict().items())
    assert TorchModel(surrogate).describe()["sha256"][:16] in repr(attack)
    assert repr(attack) != repr(Transfer(surrogates=conv(seed=4), processors=EVERYTHING, steps=2))


def test_surrogates_that_do_not_suit_are_refused():
    net, x = mlp(), rand(40, 8)
    y = labelled(net, x)
    in_training = nn.Sequential(nn.Flatten(), nn.Linear(8, 4), nn.Dropout(0.5))
    with pytest.raises(ModelInTrainingMode, match="'2'"):
        Transfer(surrogates=in_training)
    later = in_training.eval()
    attack = Transfer(surrogates=later)
    later[2].train()
    with pytest.raises(ModelInTrainingMode, match="'2'"):
        attack(net, x, y, labels_threat(Linf(0.1)))
    with pytest.raises(ThreatError, match="no surrogate"):
        Transfer(surrogates=())
    with pytest.raises(ThreatError, match="no gradients"):
        Transfer(surrogates=limit_access(TorchModel(net), "scores"))
    cases = {
        r"inputs in \[0.0, 255.0\]": TorchModel(mlp(), input_range=(0, 255)),
        "4 and 3 classes": (mlp(), mlp(classes=3)),
        "2 classes": mlp(classes=2),
    }
    for message, surrogates in cases.items():
        with pytest.raises(ThreatError, match=message):
            Transfer(surrogates=surrogates)(net, x, y, Linf(0.1))
    wide = TorchModel(mlp(), input_range=(-1, 1))
    Transfer(surrogates=mlp())(wide, x, y, Threat(Linf(0.1)))  # a bare module takes what the target takes


@pytest.mark.parametrize(
    "make",
    [
        lambda: Transfer(surrogates=mlp(), steps=0),
        lambda: Transfer(surrogates=mlp(), ask_every=0),
        lambda: Transfer(surrogates=mlp(), step_size=0.0),
        lambda: Transfer(surrogates=mlp(), loss="hinge"),
        lambda: Transfer(surrogates=mlp(), processors=(Momentum(1.0), Momentum(0.5))),
        lambda: Momentum(-1.0),
        lambda: Momentum(float("nan")),
        lambda: DiverseInput(smallest=0.0),
        lambda: DiverseInput(probability=1.1),
        lambda: TranslationInvariant(4),
        lambda: ScaleInvariant(0),
        lambda: VarianceTuning(neighbours=0),
        lambda: VarianceTuning(radius=0.0),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ThreatError):
        make()


def test_a_constant_surrogate_moves_nothing_and_a_broken_one_no_other_rows():
    net, x = mlp(), rand(6, 8)
    still = linear(torch.zeros(4, 8))
    result = Transfer(surrogates=still)(net, x, labelled(net, x), labels_threat(Linf(0.5)))
    assert not result.broken.any()

    class Root(nn.Module):
        def forward(self, z):
            return net(z) + 0 * (z[:, :1] - 0.95).abs().sqrt()  # has no slope at 0.95

    x[0, 0], y = 0.95, labelled(net, x)
    known = Transfer(surrogates=net)(net, x[1:], y[1:], labels_threat(Linf(0.05)), batch_size=5)
    hit = Transfer(surrogates=Root().eval())(net, x, y, labels_threat(Linf(0.05)))
    assert Box(0.0, 1.0).contains(hit.adversarial).all()
    assert torch.equal(hit.broken[1:], known.broken)
