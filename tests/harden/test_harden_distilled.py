"""Students: what their loss is, that the teacher stays as it is, and that a run knows its teacher."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from small_lessons import batch_of, cloud, flat, learner_of, normed, pictures, same, state_of, trainer_of
from torch import nn
from torch.nn import functional

import hardpoint as hp
from hardpoint.core.access import Access
from hardpoint.core.errors import ConfigError, ModelError, RunError
from hardpoint.harden import Training
from hardpoint.harden.checkpoint import Checkpoint
from hardpoint.harden.recipes import (
    Atta,
    Attacked,
    Awp,
    Distilled,
    FgsmRs,
    Free,
    GradAlign,
    Ibp,
    Mixed,
    NFgsm,
    Pgd,
    Plain,
    Regularised,
    Trades,
    longer,
)
from hardpoint.harden.recipes.recipe import carrying, replaying
from hardpoint.harden.teacher import Teacher
from hardpoint.models import TorchModel
from hardpoint.threats import Linf
from small_models import rand


def teacher(seed: int = 7) -> nn.Module:
    return flat(3, hidden=20, seed=seed).eval()


def lesson(n: int = 6):
    return learner_of(flat(3), Linf(0.1)), batch_of(rand(n, 2), torch.arange(n) % 3, 3)


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """From the scores ``q`` to the shares in the scores ``p``."""
    return functional.kl_div(q.log_softmax(1), p.log_softmax(1), reduction="batchmean", log_target=True)


def entropy(p: torch.Tensor) -> torch.Tensor:
    return -(p.softmax(1) * p.log_softmax(1)).sum(1).mean()


def test_rslad_is_what_its_paper_says():
    learner, batch = lesson()
    wise = teacher()
    recipe = Distilled(Mixed(Pgd(3), clean=1 / 6), wise)
    attacked = recipe.attacked(learner, batch)
    found = recipe.taught(learner, batch, attacked)
    answers, student = wise(batch.x).detach(), learner.module
    wanted = kl(answers, student(batch.x)) / 6 + 5 / 6 * kl(answers, student(attacked.x))
    torch.testing.assert_close(found.loss, wanted + entropy(answers))
    assert float(kl(answers, student(attacked.x))) > float(kl(answers, student(batch.x)))
    assert (attacked.x - batch.x).abs().amax() <= 0.1 + 1e-6


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_labels_and_answers_are_weighed_at_a_temperature(temperature):
    learner, batch = lesson()
    wise = teacher()
    recipe = Distilled(Plain(), wise, temperature=temperature, share=0.3)
    found = recipe.taught(learner, batch, recipe.attacked(learner, batch)).loss
    student, answers = learner.module(batch.x) / temperature, wise(batch.x).detach() / temperature
    soft = kl(answers, student) + entropy(answers)
    hard = functional.cross_entropy(student, batch.y)
    torch.testing.assert_close(found, temperature**2 * (0.3 * soft + 0.7 * hard))


def test_without_a_share_the_teacher_says_nothing():
    learner, batch = lesson()
    recipe = Distilled(Pgd(2), teacher(), share=0.0)
    attacked = recipe.attacked(learner, batch)
    assert torch.equal(attacked.x, Pgd(2).attacked(learner, batch).x)
    assert torch.equal(
        recipe.taught(learner, batch, attacked).loss, Pgd(2).taught(learner, batch, attacked).loss
    )


def test_the_search_is_at_the_temperature_and_leaves_the_learner_alone():
    learner, batch = lesson()
    cool = learner.cooled(2.0).cooled(3.0)
    torch.testing.assert_close(cool.scores(batch.x), learner.scores(batch.x) / 6)
    with cool.searched() as ask, learner.searched() as plain:
        torch.testing.assert_close(ask(batch.x), plain(batch.x) / 6)
    assert learner.temperature == 1.0


def test_the_teacher_is_asked_once_per_batch_and_stays_as_it_is():
    asked = []

    class Noted(nn.Linear):
        def forward(self, x):
            asked.append(self.training)
            return super().forward(x)

    wise = nn.Sequential(Noted(2, 3), nn.Dropout(0.9)).train()
    before = state_of(wise)
    recipe = Distilled(Trades(steps=2), wise)
    learner, batch = lesson()
    recipe.taught(learner, batch, recipe.attacked(learner, batch)).loss.backward()
    assert asked == [False]
    other = replace(batch, x=batch.x.clone())
    recipe.attacked(learner, other)
    assert asked == [False, False]
    assert wise.training
    assert same(before, state_of(wise))
    assert all(p.grad is None and p.requires_grad for p in wise.parameters())
    with torch.no_grad():  # what becomes of the one that was given does not matter
        answers = recipe.answered(batch).targets
        wise[0].weight.zero_()
        assert torch.equal(recipe.answered(replace(batch, x=batch.x.clone())).targets, answers)


def test_around_and_inside_other_recipes():
    wise = Teacher(teacher())
    learner, batch = lesson()
    for recipe in (
        Awp(Distilled(Trades(steps=1), wise)),
        Mixed(Distilled(Pgd(1), wise)),
        Regularised(Distilled(FgsmRs(), wise), (GradAlign(),)),
        Distilled(Regularised(FgsmRs(), (GradAlign(),)), wise, temperature=2.0),
    ):
        attacked = recipe.attacked(learner, batch)
        assert torch.isfinite(recipe.taught(learner, batch, Attacked(attacked.x)).loss)
        assert (attacked.slope is None) == ("fgsm" not in recipe.name)
    assert longer(Distilled(NFgsm(), wise, 2.0, 0.5)) == Distilled(Pgd(6), wise, 2.0, 0.5)
    assert replaying(Distilled(Free(3), wise)) == Free(3)
    assert carrying(Distilled(Atta(), wise)) == Atta()


@pytest.mark.parametrize("inner", [NFgsm(), Free(2), Atta(), Mixed(Pgd(1))], ids=lambda r: r.name)
def test_training_goes_on_to_the_same_weights_without_the_teacher_on_disk(inner, tmp_path):
    class Stop(Exception):
        pass

    wise = normed(seed=5).eval()

    def trainer(**more):
        recipe = Distilled(inner, wise, temperature=2.0)
        training = Training(epochs=4 if isinstance(inner, Free) else 2, batch_size=7, lr=0.02)
        return trainer_of(normed(dropout=0.2), recipe, training, data=pictures(20), seed=1, **more)

    def stops(epochs, planned):
        if len(epochs) == 1:
            raise Stop

    straight = trainer()
    straight.run()
    with pytest.raises(Stop):
        trainer(file=tmp_path / "c", told=stops).run()
    resumed = trainer(file=tmp_path / "c")
    resumed.run()
    assert same(state_of(straight.module), state_of(resumed.module))
    kept = Checkpoint.read(tmp_path / "c").tensors
    assert not any(torch.equal(held, weight) for held in kept.values() for weight in wise.parameters())


def test_a_run_knows_its_teacher(tmp_path):
    x, y = cloud(40)
    how = {"threat": Linf(0.05), "training": Training(epochs=1), "progress": False}

    def go(seed: int, **more):
        wise = flat(2, hidden=20, seed=seed).eval()
        return hp.harden(flat(), x, y, recipe=Distilled(Pgd(1), wise), run_dir=tmp_path / "r", **how, **more)

    first = go(1)
    second = go(1, resume=True)
    assert same(state_of(first.model), state_of(second.model))
    with pytest.raises(RunError):
        go(2, resume=True)


def test_teachers_are_equal_where_they_are_the_same():
    assert Teacher(teacher()) == Teacher(teacher())
    assert hash(Teacher(teacher())) == hash(Teacher(teacher()))
    assert Teacher(teacher()) != Teacher(teacher(8))
    assert Teacher(TorchModel(teacher(), probabilities=True)) != Teacher(teacher())
    assert Teacher(nn.Sequential(nn.Linear(2, 2), nn.ReLU()).eval()) != Teacher(nn.Linear(2, 2).eval())
    assert repr(Distilled(Pgd(), teacher())) == repr(Distilled(Pgd(), teacher()))
    probable = nn.Sequential(flat(3), nn.Softmax(1)).eval()
    x = rand(4, 2)
    torch.testing.assert_close(
        Teacher(TorchModel(probable, probabilities=True)).scores(x).softmax(1), probable(x).detach()
    )


def test_a_student_learns_what_only_its_teacher_knows():
    x, _ = cloud(300)
    wise = flat(hidden=12, seed=3).eval()
    with torch.no_grad():
        wise[0].weight.mul_(4)
    wrong = 1 - wise(x).argmax(1)  # labels say the opposite
    done = hp.harden(
        flat(hidden=24),
        x,
        wrong,
        threat=Linf(0.02),
        recipe=Distilled(Pgd(1), wise),
        training=Training(epochs=15, lr=0.02, validation=0.0),
        progress=False,
    )
    assert float((done.model(x).argmax(1) == wise(x).argmax(1)).double().mean()) > 0.9


def test_what_cannot_teach_or_be_taught():
    wise = teacher()
    for make in (
        lambda: Distilled("pgd", wise),
        lambda: Distilled(Awp(Pgd()), wise),
        lambda: Distilled(Regularised(Awp(Pgd()), (GradAlign(),)), wise),
        lambda: Distilled(Ibp(), wise),
        lambda: Distilled(Pgd(), wise, temperature=0.0),
        lambda: Distilled(Pgd(), wise, temperature=math.inf),
        lambda: Distilled(Pgd(), wise, share=1.5),
    ):
        with pytest.raises(ConfigError):
            make()
    for bad in (3, None, TorchModel(wise, access=Access.LABELS)):
        with pytest.raises(ModelError):
            Distilled(Pgd(), bad)
    learner, batch = lesson()
    with pytest.raises(ModelError, match="knows 2 classes, the data have 3"):
        Distilled(Pgd(1), flat(2)).attacked(learner, batch)
    broken = teacher()
    with torch.no_grad():
        broken[0].bias.fill_(math.nan)
    with pytest.raises(ModelError, match="not finite"):
        Distilled(Pgd(1), broken).attacked(learner, batch)


@pytest.mark.parametrize(
    ("wise", "words"),
    [
        (flat(3), "the teacher knows 3 classes, the data have 2"),
        (nn.Linear(5, 2), r"the teacher cannot take inputs of shape \(2,\)"),
    ],
    ids=["classes", "shape"],
)
def test_who_cannot_teach_here_is_refused_before_anything_is_written(wise, words, tmp_path):
    x, y = cloud(40)
    for recipe in (Distilled(Pgd(1), wise.eval()), Awp(Distilled(Pgd(1), wise.eval()))):
        with pytest.raises(ModelError, match=words):
            hp.harden(flat(), x, y, threat=Linf(0.05), recipe=recipe, run_dir=tmp_path / "r", progress=False)
    with pytest.raises(ModelError, match=words):
        hp.search(
            flat(), x, y, threat=Linf(0.05), recipe=recipe.inner, run_dir=tmp_path / "r", progress=False
        )
    assert not (tmp_path / "r").exists()
