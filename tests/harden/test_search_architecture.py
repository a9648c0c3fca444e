"""Architectures: what is written builds what was trained, and the widest that limits allow is the widest."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hardpoint.core.errors import ConfigError
from hardpoint.harden.search import Activation, Architecture, Head, Limits, Normalisation, Space
from hardpoint.harden.search.limits import Size

ANY = st.builds(
    Architecture,
    shape=st.sampled_from([(1, 8, 8), (3, 9, 12), (2, 32, 20), (5,), (1,)]),
    classes=st.integers(2, 4),
    width=st.integers(1, 9),
    depth=st.integers(1, 3),
    growth=st.sampled_from([0.5, 1.0, 1.5, 2.0]),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 2),
    activation=st.sampled_from(Activation),
    norm=st.sampled_from(Normalisation),
    skip=st.booleans(),
    head=st.sampled_from(Head),
)


def made_from(text: str) -> nn.Module:
    """What the file ``text`` makes."""
    names: dict[str, Any] = {"__name__": "architecture"}
    exec(compile(text, "architecture.py", "exec"), names)
    made = names["make"]()
    assert isinstance(made, nn.Module)
    return made


@given(ANY)
@settings(max_examples=60, deadline=None)
def test_the_written_file_makes_the_network_that_was_built(architecture: Architecture) -> None:
    built, read = architecture.build().eval(), made_from(architecture.source()).eval()
    read.load_state_dict(built.state_dict())
    x = torch.rand(3, *architecture.shape)
    scores = built(x)
    assert scores.shape == (3, architecture.classes)
    assert torch.equal(read(x), scores)


@given(ANY)
@settings(max_examples=60, deadline=None)
def test_what_is_told_is_read_back(architecture: Architecture) -> None:
    assert Architecture.from_json(architecture.to_json()) == architecture


@given(ANY, st.integers(20, 30_000), st.integers(20, 300_000))
@settings(max_examples=40, deadline=None)
def test_one_channel_more_than_the_widest_is_too_much(
    architecture: Architecture, weights: int, operations: int
) -> None:
    limits = Limits(weights, operations)
    found = limits.widest(architecture)
    width = 0 if found is None else found.width
    sizes = [
        Size.of(other.build(), other.shape)
        for other in (Architecture(**{**vars(architecture), "width": w}) for w in (max(1, width), width + 1))
    ]
    assert limits.allows(sizes[0]) is (found is not None)
    assert not limits.allows(sizes[1])


def test_sizes_of_known_layers() -> None:
    convolution = nn.Conv2d(3, 5, 3, stride=2, padding=1)
    assert Size.of(convolution, (3, 8, 8)) == Size(3 * 5 * 9 + 5, 16 * 5 * 3 * 9)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 2))
    assert Size.of(network, (3, 2, 2)) == Size(12 * 7 + 7 + 7 * 2 + 2, 12 * 7 + 7 * 2)


def test_limits_like_a_network() -> None:
    assert Limits.like(nn.Linear(4, 3), (4,)) == Limits(15, 24)
    assert Limits.like(nn.Linear(4, 3), (4,), operations=0.5).scaled(0.5) == Limits(7, 3)


def test_a_space_counts_what_it_holds() -> None:
    space = Space(depth=(1, 2), growth=(1.0,), kernel=(3, 5), head=(Head.FLAT,), size=(1.0,))
    choices = space.choices((1, 8, 8))
    assert space.count((1, 8, 8)) == len(list(itertools.product(*choices.values()))) == 2 * 2 * 2 * 3 * 3 * 2
    assert "kernel" not in space.choices((4,))
    assert space.count((4,)) == 2 * 3 * 3 * 2


@pytest.mark.parametrize(
    ("build", "what"),
    [
        (lambda: Architecture((2, 3), 2), "neither rows nor pictures"),
        (lambda: Architecture((1, 8, 8), 2, kernel=4), "makes no sense"),
        (lambda: Architecture((1, 8, 8), 1), "makes no sense"),
        (lambda: Architecture((1, 8, 8), 2, width=0), "makes no sense"),
        (lambda: Space(depth=()), "depth is"),
        (lambda: Space(kernel=(3, 3)), "kernel is"),
        (lambda: Space(size=(0.0, 1.0)), "size is"),
        (lambda: Space(size=(1.5,)), "size is"),
        (lambda: Space(stride=(0,)), "stride is"),
        (lambda: Space(activation=("relu",)), "activation is"),  # type: ignore[arg-type]
        (lambda: Space(depth=([1],)), "depth is"),  # type: ignore[arg-type]
        (lambda: Space(size=("a",)), "size is"),  # type: ignore[arg-type]
        (lambda: Limits(0, 5), "limits of 0 weights"),
        (lambda: Limits(float("nan"), 5), "limits of nan weights"),  # type: ignore[arg-type]
    ],
)
def test_nonsense_is_refused(build: Any, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        build()
