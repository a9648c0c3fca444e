"""Where training stands, on disk: whole, exact, and nothing that could run."""

from __future__ import annotations

import pickle

import pytest
import torch
from safetensors.torch import save
from small_lessons import flat, same, state_of
from torch import nn

from hardpoint.core.errors import RunError
from hardpoint.harden.checkpoint import Checkpoint, optimiser_tensors, restore_optimiser, under
from hardpoint.harden.settings import Optimiser, Training
from small_models import rand, randn

DTYPES = [
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.int8,
    torch.uint8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.bool,
]


def test_all_kinds_of_tensors_come_back(tmp_path):
    tensors = {f"part/{dtype}": (randn(3, 4) * 50).to(dtype) for dtype in DTYPES}
    line = torch.arange(10.0)
    odd = {
        "nothing": torch.empty(0, 3),
        "nothing else": torch.empty(0),
        "number": torch.tensor(3.5),
        "turned": rand(3, 4).t(),
        "channels last": rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "extremes": torch.tensor([torch.nan, torch.inf, -0.0, 1e-45]),
        "left": line[:5],
        "right": line[5:],
        "whole": line,
        "once more": line,
        "learned": nn.Parameter(rand(2)),
        "names/with.dots and spaces é": rand(1),
    }
    held = Checkpoint(
        {**tensors, **under("odd", odd)}, {"text": 'é\n"', "n": [1, 0.1, None], "x": {"y": True}}
    )
    held.write(tmp_path / "new" / "file")
    known = Checkpoint.read(tmp_path / "new" / "file")
    assert known.facts == held.facts
    assert known.tensors.keys() == held.tensors.keys()
    for name, tensor in held.tensors.items():
        assert known.tensors[name].dtype == tensor.dtype
        assert torch.equal(known.tensors[name].nan_to_num(7), tensor.detach().nan_to_num(7)), name
    assert known.part("odd").keys() == odd.keys()
    assert known.part("od") == {}


def test_facts_keep_every_digit_and_no_number(tmp_path):
    facts = {"tenth": 0.1, "third": 1 / 3, "large": 10**20, "none": float("nan"), "endless": float("inf")}
    Checkpoint({}, facts).write(tmp_path / "c")
    known = Checkpoint.read(tmp_path / "c").facts
    assert known["tenth"] == 0.1
    assert known["third"] == 1 / 3
    assert known["large"] == 10**20
    assert known["none"] != known["none"]
    assert known["endless"] == float("inf")


@pytest.mark.parametrize("kind", Optimiser)
def test_optimisers_go_on_as_if_never_stopped(tmp_path, kind):
    def updates(net, optimiser, turns):
        for turn in turns:
            optimiser.zero_grad()
            net(rand(5, 2, seed=turn)).square().sum().backward()
            optimiser.step()

    straight, training = flat(), Training(lr=0.1)
    first = kind.over(straight.parameters(), training)
    updates(straight, first, range(3))
    Checkpoint(
        {**under("module", straight.state_dict()), **under("optimiser", optimiser_tensors(first))}, {}
    ).write(tmp_path / "c")
    updates(straight, first, range(3, 7))
    known, resumed = Checkpoint.read(tmp_path / "c"), flat(seed=9)
    resumed.load_state_dict(known.part("module"))
    second = kind.over(resumed.parameters(), training)
    restore_optimiser(second, known.part("optimiser"))
    updates(resumed, second, range(3, 7))
    assert same(state_of(straight), state_of(resumed))
    before = state_of(straight)
    updates(resumed, second, range(2))
    assert same(before, state_of(straight))  # the two share nothing


@pytest.mark.parametrize("kind", Optimiser)
def test_an_optimiser_that_has_done_nothing_has_nothing_to_remember(kind):
    net = flat()
    optimiser = kind.over(net.parameters(), Training())
    assert optimiser_tensors(optimiser) == {}
    net(rand(2, 2)).sum().backward()
    optimiser.step()
    restore_optimiser(optimiser, {})
    assert optimiser_tensors(optimiser) == {}


class Runs:
    """Would leave a mark if it were ever unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_other_files_are_refused_and_nothing_in_them_is_run(tmp_path):
    file, mark = tmp_path / "c", tmp_path / "mark"
    Checkpoint({"a/b": rand(4, 4)}, {"n": 1}).write(file)
    whole = file.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    deep = b"[" * 200_000
    others = [
        b"",
        b"abc",
        whole[:4],
        whole[:8],
        whole[: 8 + size // 2],
        whole[: 8 + size],
        whole[:-1],
        whole + b"more",
        b"\xff" * 8 + whole[8:],
        b"\x00" * 64,
        bytes(range(256)) * 4,
        len(deep).to_bytes(8, "little") + deep,
        save({"a": rand(2)}),
        save({"a": rand(2)}, metadata={"format": "pt"}),
        save({"a": rand(2)}, metadata={"format": "hardpoint training 1"}),
        save({"a": rand(2)}, metadata={"format": "hardpoint training 1", "facts": "{"}),
        save({"a": rand(2)}, metadata={"format": "hardpoint training 2", "facts": "{}"}),
        pickle.dumps(Runs(mark)),
    ]
    torch.save({"a": Runs(mark)}, tmp_path / "pickled")
    others.append((tmp_path / "pickled").read_bytes())
    heads = (b"[]", b"3", b'{"__metadata__": 3}', b'{"__metadata__": {"format": 1}}')
    others += [len(head).to_bytes(8, "little") + head for head in heads]
    for number, content in enumerate(others):
        file.write_bytes(content)
        with pytest.raises(RunError, match="train anew"):
            Checkpoint.read(file)
            pytest.fail(f"file {number} was read")
    assert not mark.exists()


def test_what_is_no_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(RunError, match="cannot read"):
            Checkpoint.read(path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "c"
    Checkpoint({"a": torch.ones(3)}, {"n": 1}).write(file)
    before = file.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hardpoint.evidence.store.os.fsync", full)
    with pytest.raises(RunError, match="No space left"):
        Checkpoint({"a": torch.zeros(3)}, {"n": 2}).write(file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]
