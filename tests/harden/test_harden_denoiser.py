"""A denoiser that learns in front of a network that does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_lessons import batch_of, flat, learner_of, normed, pictures
from torch import Tensor, nn

import hardpoint as hp
from hardpoint.core.errors import ConfigError, DataError, UnreadableModelFile
from hardpoint.core.rng import Rng
from hardpoint.defenses import DenoisingAutoencoder
from hardpoint.defenses.networks.denoised import Denoised
from hardpoint.harden.recipes import (
    Atta,
    Awp,
    Denoiser,
    Distilled,
    Ibp,
    Jacobian,
    NFgsm,
    Noise,
    Pgd,
    Regularised,
    Trades,
)
from hardpoint.models.torch import TorchModel
from small_models import rand

SHORT = hp.Training(epochs=2, batch_size=16, lr=1e-2, validation=0.0)
QUIET = {"progress": False, "threat": hp.Linf(0.1)}


def weak(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """One number that tells the classes surely, and fifteen that tell them a little each."""
    y = torch.arange(n) % 2
    drawn = rand(n, 16, seed=seed)
    x = 0.5 + 0.05 * (2 * y[:, None] - 1) + 0.3 * (drawn - 0.5)
    x[:, 0] = 0.2 + 0.6 * y + 0.1 * (drawn[:, 0] - 0.5)
    return x, y


def leaning() -> nn.Module:
    """A network that leans on all of them alike."""
    net = nn.Linear(16, 2)
    with torch.no_grad():
        net.weight[:] = torch.tensor([[-1.0], [1.0]]).expand(2, 16)
        net.bias[:] = torch.tensor([8.0, -8.0])
    return net.eval()


def test_the_network_stays_and_its_answers_begin_as_they_were():
    net, (x, y) = normed().eval(), pictures(24)
    before = {name: held.clone() for name, held in net.state_dict().items()}
    begins = Denoiser(Pgd(1)).prepared(normed().eval(), Rng(3), x).train()
    assert torch.allclose(begins(x), net(x), atol=1e-5)
    drawn = torch.get_rng_state()
    done = hp.harden(net, x, y, recipe=Denoiser(Pgd(2)), training=SHORT, **QUIET)
    assert isinstance(done.model, Denoised)
    done.model.stage()
    assert torch.equal(torch.get_rng_state(), drawn)
    for held in (net, done.model.network):
        assert all(torch.equal(before[name], now) for name, now in held.state_dict().items())
    assert not torch.equal(done.model(x), net(x))
    assert not done.model.network.training


@pytest.mark.parametrize(
    "recipe", [Denoiser(Pgd(5)), Denoiser(Trades(steps=3)), Denoiser(NFgsm())], ids=lambda r: r.name
)
def test_what_a_network_leans_on_too_much_is_taken_from_its_inputs(recipe):
    (x, y), (xt, yt) = weak(400, seed=0), weak(200, seed=1)
    training = hp.Training(epochs=30, batch_size=50, lr=1e-2, validation=0.0)
    done = hp.harden(leaning(), x, y, recipe=recipe, training=training, **QUIET)
    before, after = (
        hp.attacks.APGD(steps=50)(net, xt, yt, hp.Linf(0.1)).broken for net in (leaning(), done.model)
    )
    assert before.double().mean() > 0.8
    assert after.double().mean() < 0.1


def test_without_an_attack_it_learns_to_take_noise_away():
    flat_pictures = rand(64, 1, 1, 1).expand(64, 1, 6, 6).contiguous()
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).eval()
    y = (flat_pictures.mean((1, 2, 3)) > 0.5).long()
    training = hp.Training(epochs=40, batch_size=16, lr=1e-2, validation=0.0)
    done = hp.harden(
        net, flat_pictures, y, recipe=Denoiser(Noise(0.2), pixels=100.0), training=training, **QUIET
    )
    noisy = flat_pictures + 0.2 * torch.randn(flat_pictures.shape, generator=torch.Generator().manual_seed(1))
    assert done.denoiser is not None
    left = (done.denoiser.apply(noisy) - flat_pictures).square().mean()
    assert left < (noisy - flat_pictures).square().mean() / 3


def test_the_loss_is_the_recipes_and_the_pixels_that_are_missed():
    x, y = pictures(6)
    whole = Denoised(normed().eval(), x, hidden=3).train()
    nn.init.normal_(whole.denoiser.layers[-1].weight)
    learner, batch = learner_of(whole), batch_of(x, y, classes=3)
    attacked = Pgd(2).attacked(learner, batch)
    alone = Pgd(2).taught(learner, batch, attacked).loss
    mean, scale = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), correction=0, keepdim=True)
    missed = (whole.denoiser((attacked.x - mean) / scale) - (x - mean) / scale).square().mean()
    assert missed > 0
    for pixels in (0.0, 2.5):
        loss = Denoiser(Pgd(2), pixels=pixels).taught(learner, batch, attacked).loss
        assert torch.allclose(loss, alone + pixels * missed, rtol=1e-4)


@pytest.mark.parametrize("shape", [(5,), (8, 8), (2, 8, 8)], ids=str)
def test_the_stage_is_the_denoiser_and_survives_a_file(shape, tmp_path):
    x = rand(7, *shape)
    whole = Denoised(nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 3)).eval(), x, hidden=4)
    for weight in whole.denoiser.parameters():
        nn.init.normal_(weight, std=0.3)
    read = DenoisingAutoencoder.load(whole.stage().save(tmp_path / "denoiser.safetensors"))
    for stage in (whole.stage(), read):
        assert torch.equal(hp.Defended(whole.network, [stage]).scores(x), whole(x).detach())
    assert read.describe() == whole.stage().describe()
    fitted = DenoisingAutoencoder.fit(x, epochs=1)
    again = DenoisingAutoencoder.load(fitted.save(tmp_path / "fitted.safetensors"))
    assert torch.equal(again.apply(x), fitted.apply(x))
    assert again.describe() == fitted.describe()


ABOUT = {"kind": "DenoisingAutoencoder", "shape": [1, 6, 6], "hidden": 0, "residual": False, "settings": {}}


@pytest.mark.parametrize(
    ("about", "tensors"),
    [
        (None, {}),
        ([], {}),
        ({**ABOUT, "kind": "PcaProjection"}, {}),
        ({**ABOUT, "shape": 3}, {}),
        ({**ABOUT, "shape": [1, 1, 1, 6]}, {}),
        ({**ABOUT, "hidden": -1}, {}),
        ({**ABOUT, "hidden": 5}, {}),
        ({**ABOUT, "hidden": 10**12}, {}),
        ({**ABOUT, "hidden": float("inf")}, {}),
        ({**ABOUT, "shape": [1, float("inf"), 6]}, {}),
        ({**ABOUT, "shape": []}, {}),
        ({**ABOUT, "settings": {"seed": "0"}}, {}),
        ({**ABOUT, "residual": True}, {}),
        (ABOUT, {"mean": torch.zeros(7, 1, 4)}),
        (ABOUT, {"mean": torch.full((1, 1, 1), torch.nan)}),
        (ABOUT, {"mean": torch.zeros(1, 1, 1, dtype=torch.int64)}),
        (ABOUT, {"scale": torch.zeros(1, 1, 1)}),
        (ABOUT, {"network.0.bias": torch.zeros(16, dtype=torch.int64)}),
        (ABOUT, {"network.0.bias": torch.full((16,), torch.inf)}),
        (ABOUT, {"network.0.bias": torch.zeros(3)}),
        (ABOUT, {"more": torch.zeros(3)}),
        (ABOUT, {"network.more": torch.zeros(3)}),
    ],
    ids=str,
)
def test_files_that_hold_something_else_are_refused(about, tensors, tmp_path):
    file, other = tmp_path / "denoiser.safetensors", tmp_path / "other.safetensors"
    DenoisingAutoencoder.fit(rand(8, 1, 6, 6), epochs=1).save(file)
    held = load_file(file)
    save_file(held, other, {"about": json.dumps(ABOUT)})
    assert DenoisingAutoencoder.load(other).shape == (1, 6, 6)
    save_file({**held, **tensors}, other, None if about is None else {"about": json.dumps(about)})
    with pytest.raises(UnreadableModelFile, match="holds no DenoisingAutoencoder"):
        DenoisingAutoencoder.load(other)


def test_files_of_other_kinds_are_refused(tmp_path):
    stage = DenoisingAutoencoder.fit(rand(8, 1, 6, 6), epochs=1)
    with pytest.raises(ConfigError, match="write denoiser.safetensors"):
        stage.save(tmp_path / "denoiser")
    torch.save({"mean": torch.zeros(1)}, tmp_path / "weights.pt")
    with pytest.raises(UnreadableModelFile, match="holds no DenoisingAutoencoder"):
        DenoisingAutoencoder.load(tmp_path / "weights.pt")
    (tmp_path / "torn.safetensors").write_bytes(stage.save(tmp_path / "whole.safetensors").read_bytes()[:-9])
    with pytest.raises(UnreadableModelFile, match="malformed"):
        DenoisingAutoencoder.load(tmp_path / "torn.safetensors")
    with pytest.raises(UnreadableModelFile, match="is not a file"):
        DenoisingAutoencoder.load(tmp_path / "none.safetensors")


def test_going_on_gives_the_same_denoiser(tmp_path):
    net, (x, y) = flat().eval(), (rand(64, 2), torch.arange(64) % 2)
    settings = {"recipe": Denoiser(Pgd(2), hidden=4), "training": SHORT, "seed": 5, **QUIET}

    def stop(history):
        if len(history) == 1:
            raise KeyboardInterrupt

    whole = hp.harden(net, x, y, run_dir=tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        hp.harden(net, x, y, run_dir=tmp_path / "cut", each_epoch=stop, **settings)
    cut = hp.harden(net, x, y, run_dir=tmp_path / "cut", resume=True, **settings)
    assert torch.equal(cut.model(x), whole.model(x))
    files = [tmp_path / name / "training" / "denoiser.safetensors" for name in ("whole", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not (tmp_path / "whole" / "training" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: Denoiser(Ibp()), "would leave out"),
        (lambda: Denoiser(Awp(Pgd())), "would leave out"),
        (lambda: Denoiser(Pgd(), pixels=-1.0), "pixels"),
        (lambda: Denoiser(Pgd(), hidden=0), "hidden"),
        (lambda: Distilled(Denoiser(Pgd()), flat().eval()), "put Distilled inside Denoiser"),
        (
            lambda: hp.harden(
                flat(), rand(8, 2), torch.arange(8) % 2, recipe=Denoiser(Denoiser(Pgd())), **QUIET
            ),
            "leave out",
        ),
        (
            lambda: hp.search(flat(), rand(8, 2), torch.arange(8) % 2, recipe="denoiser", **QUIET),
            "leaves networks as they are",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(made, said):
    with pytest.raises(ConfigError, match=said):
        made()


def test_a_run_that_was_copied_elsewhere_still_gives_its_denoiser(tmp_path: Path):
    net, (x, y) = normed().eval(), pictures(16)
    done = hp.harden(net, x, y, recipe="denoiser", training=SHORT, run_dir=tmp_path / "run", **QUIET)
    shutil.move(tmp_path / "run", tmp_path / "moved")
    stage = DenoisingAutoencoder.load(tmp_path / "moved" / "training" / "denoiser.safetensors")
    assert torch.equal(hp.Defended(net, [stage]).scores(x), done.model(x).detach())


def test_a_network_that_must_not_change_may_be_frozen_and_stays_as_it_is():
    net, (x, y) = normed().eval().requires_grad_(False), pictures(16)
    done = hp.harden(net, x, y, recipe="denoiser", training=SHORT, **QUIET)
    assert not any(p.requires_grad for p in net.parameters())
    learning = normed().eval()
    hp.harden(learning, x, y, recipe="denoiser", training=SHORT, **QUIET)
    assert all(p.requires_grad for p in learning.parameters())
    with pytest.raises(ConfigError, match="has a denoiser already"):
        hp.harden(done.model, x, y, recipe="denoiser", training=SHORT, **QUIET)


@pytest.mark.parametrize("craft_mode", ["eval", "train"])
@pytest.mark.parametrize(
    "recipe", [Denoiser(Atta()), Regularised(Denoiser(Pgd(2)), (Jacobian(0.1),))], ids=lambda r: r.name
)
def test_it_goes_inside_and_around_other_recipes(recipe, craft_mode):
    x, y = (part.double() if part.is_floating_point() else part for part in pictures(16))
    done = hp.harden(
        normed().double().eval(), x, y, recipe=recipe, craft_mode=craft_mode, training=SHORT, **QUIET
    )
    assert done.denoiser is not None
    assert done.denoiser.apply(x).dtype == torch.float64
    assert not torch.equal(done.denoiser.apply(x), x)


def test_inputs_without_a_denoiser_are_refused_before_anything_is_written(tmp_path):
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with pytest.raises(DataError, match="no denoising network"):
        hp.harden(
            net,
            rand(8, 2, 2, 2, 2),
            torch.arange(8) % 2,
            recipe="denoiser",
            run_dir=tmp_path / "run",
            **QUIET,
        )
    assert not (tmp_path / "run").exists()


def test_columns_of_very_different_scale_are_learned_alike():
    draw = rand(400, 6, seed=2)
    x, y = draw.clone(), (draw[:, 0] > draw[:, 1]).long()
    x[:, 5] *= 1e6
    net = nn.Linear(6, 2)
    with torch.no_grad():
        net.weight[:] = 0.0
        net.weight[:, :2] = torch.tensor([[-1.0, 1.0], [1.0, -1.0]])
        net.bias[:] = 0.0
    model = TorchModel(net.eval(), input_range=(0.0, 1e6))
    training = hp.Training(epochs=6, batch_size=20, validation=0.0)
    done = hp.harden(
        model, x, y, threat=hp.Linf(0.05), recipe=Denoiser(NFgsm()), training=training, progress=False
    )
    right = (done.model.module(x).argmax(1) == y).double().mean()
    assert right > 0.95


def test_another_recipe_on_a_network_behind_its_denoiser_keeps_all_weights(tmp_path):
    net, (x, y) = normed().eval(), pictures(16)
    first = hp.harden(net, x, y, recipe="denoiser", training=SHORT, **QUIET)
    again = first.model.requires_grad_(True)
    done = hp.harden(again, x, y, recipe=Pgd(2), training=SHORT, run_dir=tmp_path / "run", **QUIET)
    assert done.denoiser is None
    held = load_file(tmp_path / "run" / "training" / "model.safetensors")
    assert set(held) == set(done.model.state_dict())


def test_a_network_that_casts_its_inputs_itself():
    class Casting(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = normed().double()

        def forward(self, x):
            return self.net(x.double())

    x, y = pictures(16)
    done = hp.harden(Casting().eval(), x, y, recipe=Denoiser(Pgd(1)), training=SHORT, **QUIET)
    assert done.denoiser.apply(x).dtype == torch.float32
