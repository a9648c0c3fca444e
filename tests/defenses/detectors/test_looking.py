from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from hardpoint.core.errors import (
    BadModelOutput,
    ModelError,
    ModelInTrainingMode,
    NonFiniteOutput,
    NothingToTest,
)
from hardpoint.defenses.looking import look
from small_models import NaNs, conv, mlp, rand


def hooks(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) for m in module.modules())


def test_features_are_what_the_layers_return_averaged_over_positions():
    net, x = conv(), rand(7, 2, 6, 5)
    seen = look(net, x, ["2", "6"], chunk=3)
    with torch.no_grad():
        torch.testing.assert_close(seen.features["2"], net[:3](x).mean((2, 3)))
        torch.testing.assert_close(seen.features["6"], net[:7](x))
        torch.testing.assert_close(seen.logits, net(x))
        torch.testing.assert_close(seen.scores_of(x), net(x))
    assert len(seen) == 7
    assert hooks(net) == 0
    assert not seen.logits.requires_grad


def test_a_layer_that_is_overwritten_in_place_is_seen_as_it_was():
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 3)).eval()
    x = rand(5, 4) - 0.5
    torch.testing.assert_close(look(net, x, ["0"]).features["0"], net[0](x).detach())


class Tokens(nn.Module):
    """Tokens ``[n, T, d]`` through attention, whose layer returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(3, 4), nn.LayerNorm(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.act, self.head = nn.GELU(), nn.Linear(4, 3)

    def forward(self, x):
        z = self.norm(self.embed(x))
        z = self.act(z + self.attention(z, z, z)[0])
        return self.head(z.mean(1))


def test_tokens_keep_their_last_axis_and_sequences_of_convolutions_their_second():
    seen = look(Tokens().eval(), rand(2, 7, 3), ["embed", "attention", "act"])
    assert all(f.shape == (2, 4) for f in seen.features.values())
    net = nn.Sequential(nn.Conv1d(2, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(40, 3)).eval()
    seen = look(net, rand(4, 2, 10), ["0", "1"])
    assert all(f.shape == (4, 5) for f in seen.features.values())


def test_gradients_reach_the_inputs_through_features_and_questions():
    net = mlp()
    x = rand(3, 8).requires_grad_(True)
    seen = look(net, x, ["2"], chunk=2)
    (through,) = torch.autograd.grad(seen.features["2"].sum() + seen.scores_of(x).square().sum(), x)
    y = x.detach().requires_grad_(True)
    (direct,) = torch.autograd.grad(net[:3](y).sum() + net(y).square().sum(), y)
    torch.testing.assert_close(through, direct)


def test_an_unknown_layer_is_named_with_a_close_one():
    with pytest.raises(ModelError, match=r"no layer 'embeds'; did you mean 'embed'"):
        look(Tokens().eval(), rand(2, 7, 3), ["embeds"])


class Spare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(4, 3), nn.Linear(4, 3)
        self.turned = nn.Identity()

    def forward(self, x):
        self.turned(x.T)
        return self.used(x)


def test_layers_that_show_nothing_per_row_are_refused_and_hooks_removed():
    net = Spare().eval()
    with pytest.raises(ModelError, match="'unused' was not called"):
        look(net, rand(2, 4), ["unused"])
    with pytest.raises(ModelError, match=r"'turned' returned shape \(4, 2\) for 2 inputs"):
        look(net, rand(2, 4), ["turned"])
    with pytest.raises(RuntimeError):
        look(net, rand(2, 9), ["used"])
    assert hooks(net) == 0


def test_models_that_cannot_be_looked_at_are_refused():
    with pytest.raises(NothingToTest):
        look(mlp(), rand(0, 8))
    with pytest.raises(NonFiniteOutput, match="row 1"):
        look(nn.Sequential(NaNs(), *mlp()).eval(), torch.tensor([[0.1] * 8, [0.9] * 8]))
    with pytest.raises(ModelInTrainingMode):
        look(nn.Sequential(nn.Dropout(0.5), *mlp()).train(), rand(2, 8))
    with pytest.raises(BadModelOutput):
        look(nn.Identity(), rand(2, 3, 4))
    dropping = nn.Sequential(nn.Dropout(0.5), *mlp()).eval()
    dropping[0].train()
    seen = look(dropping, rand(2, 8), allow_training=("0",))
    assert not torch.equal(seen.scores_of(seen.x), seen.scores_of(seen.x))


def test_two_threads_that_look_through_one_model_see_their_own_rows():
    net, found = mlp(), {}
    ready = threading.Barrier(2)

    def watch(seed: int) -> None:
        x = rand(1, 8, seed=seed)
        ready.wait()
        for _ in range(50):
            seen = look(net, x, ["2"])
            with torch.no_grad():
                found.setdefault(seed, []).append(torch.allclose(seen.features["2"], net[:3](x)))

    threads = [threading.Thread(target=watch, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(len(found[s]) == 50 and all(found[s]) for s in (1, 2))


def test_chunks_bound_the_batches_of_the_model():
    sizes = []

    class Sized(nn.Module):
        def forward(self, x):
            sizes.append(len(x))
            return x

    seen = look(Sized().eval(), rand(10, 3), chunk=4)
    seen.scores_of(rand(9, 3))
    assert sizes == [4, 4, 2, 4, 4, 1]
