from __future__ import annotations

import pytest
import torch
from torch import nn

from hardpoint.core.errors import ModelError
from hardpoint.defenses.hidden_layer import last_hidden_layer
from small_models import conv, linear, mlp, rand


def test_the_layer_in_front_of_the_last_weights_is_found():
    assert last_hidden_layer(mlp(), rand(2, 8)) == "4"
    assert last_hidden_layer(conv(), rand(2, 2, 6, 5)) == "5"  # flattening is passed over


def test_it_is_what_is_called_that_counts():
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.body, self.unused = nn.Linear(6, 3), nn.Linear(4, 6), nn.Linear(6, 6)

        def forward(self, x):
            return self.head(torch.relu(self.body(x))).softmax(1)

    assert last_hidden_layer(Backwards().eval(), rand(2, 4)) == "body"


def test_the_network_is_left_as_it_was():
    net = mlp()
    before = torch.random.get_rng_state()
    last_hidden_layer(net, rand(2, 8))
    assert not any(layer._forward_hooks for layer in net.modules())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_without_a_hidden_layer_one_must_be_named():
    with pytest.raises(ModelError, match="no hidden layer"):
        last_hidden_layer(linear(torch.eye(3)), rand(2, 3))
    with pytest.raises(ModelError, match="no hidden layer"):
        last_hidden_layer(nn.Sequential(nn.Flatten()), rand(2, 3))
