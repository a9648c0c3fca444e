"""A model that refuses what it is unsure of: detectors that read the scores give that, and only accepted errors count."""

from __future__ import annotations

import pytest
import torch

import hardpoint as hp
from hardpoint.defenses import Ensemble, calibrated
from hardpoint.defenses.detectors import Margin
from small_models import mlp, rand


@pytest.mark.usefixtures("no_panel", "few_queries")
def test_it_answers_as_many_benign_inputs_as_was_asked_for_and_only_accepted_errors_count():
    ensemble = Ensemble([mlp(seed=0), mlp(seed=1)])
    model = calibrated(hp.Defended(ensemble), [Margin()], rand(4000, 8, seed=1), alpha=0.2)
    fresh = rand(20_000, 8, seed=2)
    refused = model.predict(fresh) == model.refusal
    assert 0.15 < refused.double().mean() <= 0.2
    top = ensemble.scores(fresh).topk(2, dim=1).values
    lead = top[:, 0] - top[:, 1]
    assert lead[refused].max() <= lead[~refused].min()

    x = fresh[~refused][:30]
    y, threat = ensemble.predict(x), hp.Linf(0.12)
    bare = hp.assess(ensemble, x, y, threat=threat, progress=False)
    guarded = hp.assess(model, x, y, threat=threat, progress=False)
    found = model.predict(guarded.adversarial[guarded.broken])
    assert ((found != model.refusal) & (found != y[guarded.broken])).all()
    assert guarded.broken.any()
    assert guarded.robust_accuracy.value >= bare.robust_accuracy.value
    # bare examples lie just over the boundary, where the model refuses: they would not count
    assert (model.predict(bare.adversarial[bare.broken]) == model.refusal).any()
    assert torch.equal(bare.broken & guarded.broken, guarded.broken)
