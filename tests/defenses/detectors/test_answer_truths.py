"""Closed forms of detectors that read answers, and of those that are trained."""

from __future__ import annotations

import math

import pytest
import torch

from hardpoint.core.errors import ConfigError, DataError, ModelError
from hardpoint.defenses.detectors import (
    ActivationAnomaly,
    Energy,
    Entropy,
    FeatureSqueezing,
    LayerDisagreement,
    Margin,
    MaxLogit,
    PredictiveUncertainty,
    ReconstructionError,
    TrainedDetector,
)
from hardpoint.defenses.detectors.disagreement import jensen_shannon
from hardpoint.defenses.looking import look
from hardpoint.defenses.seen import Seen
from small_models import labelled, rand, randn
from watched import LAYERS, Blend, benign, model


def of(features, logits=None):
    return Seen(features, features[:, :1].expand(-1, 2) if logits is None else logits, {"f": features})


def zeros(n):
    return torch.zeros(n, dtype=torch.int64)


def test_free_scores_are_their_closed_forms():
    z = randn(50, 6, dtype=torch.float64)
    seen = Seen(z, z)
    p = z.exp() / z.exp().sum(1, keepdim=True)
    ordered = z.sort(1).values
    torch.testing.assert_close(Energy(2.0).score(seen), -2 * (z / 2).exp().sum(1).log())
    torch.testing.assert_close(MaxLogit().score(seen), -ordered[:, -1])
    torch.testing.assert_close(Margin().score(seen), ordered[:, -2] - ordered[:, -1])
    torch.testing.assert_close(Entropy().score(seen), -(p * p.log()).sum(1))
    huge = Seen(z, 1e30 * z)
    assert all(torch.isfinite(d.score(huge)).all() for d in (Energy(), MaxLogit(), Margin(), Entropy()))
    with pytest.raises(ConfigError, match="temperature is 0"):
        Energy(0.0)


def test_squeezing_is_the_largest_move_and_asks_once():
    calls = []

    def ask(x):
        calls.append(len(x))
        return model()(x)

    x = rand(4, 8, dtype=torch.float64)
    with torch.no_grad():
        seen = Seen(x, model()(x), {}, ask)
        squeezers = (Blend(0.2), Blend(0.9), Blend(0.0))
        score = FeatureSqueezing(squeezers).score(seen)
        moves = [(model()(s.apply(x)).softmax(1) - model()(x).softmax(1)).abs().sum(1) for s in squeezers]
    torch.testing.assert_close(score, torch.stack(moves).amax(0))
    assert calls == [12]
    with pytest.raises(DataError, match="make the batch with look"):
        FeatureSqueezing(squeezers).score(Seen(x, model()(x)))
    with pytest.raises(ConfigError, match="no squeezer"):
        FeatureSqueezing(())


def test_uncertainty_is_the_variance_over_passes_and_refuses_a_model_that_never_varies():
    answers = [torch.tensor([[0.0, 1.0], [2.0, 0.0]]) * s for s in (1.0, 2.0, -1.0)]
    queue = iter(answers)
    seen = Seen(torch.zeros(2, 1), answers[0], {}, lambda _: next(queue))
    p = torch.stack(answers).softmax(2)
    torch.testing.assert_close(PredictiveUncertainty(3).score(seen), ((p**2).mean(0) - p.mean(0) ** 2).sum(1))
    with pytest.raises(ModelError, match="the same in all 5 passes"):
        PredictiveUncertainty(5).score(benign(3))


def test_disagreement_is_bounded_and_zero_for_equal_answers():
    a = randn(20, 5, dtype=torch.float64).log_softmax(1)
    b = randn(20, 5, seed=1, dtype=torch.float64).log_softmax(1)
    torch.testing.assert_close(jensen_shannon(a, a), torch.zeros(20, dtype=torch.float64))
    torch.testing.assert_close(jensen_shannon(a, b), jensen_shannon(b, a))
    sure = 1e4 * torch.eye(2, dtype=torch.float64)
    apart = jensen_shannon(sure.log_softmax(1), sure.flip(1).log_softmax(1))
    torch.testing.assert_close(apart, torch.full((2,), math.log(2.0), dtype=torch.float64))


def test_probes_are_those_of_scikit_learn():
    linear = pytest.importorskip("sklearn.linear_model")
    seen = benign(300)
    y = labelled(model(), seen.x)
    detector = LayerDisagreement.fit(seen, y, ("2",), ridge=1e-3)
    f = seen.features["2"]
    rows = ((f - f.mean(0)) / f.std(0)).numpy()
    theirs = linear.LogisticRegression(C=1 / (2e-3 * 300), max_iter=5000, tol=1e-8).fit(rows, y.numpy())
    ours = (f @ detector.weights[0][:-1] + detector.weights[0][-1]).softmax(1)
    torch.testing.assert_close(ours, torch.from_numpy(theirs.predict_proba(rows)), rtol=0, atol=2e-3)


def test_the_trained_detector_learns_what_it_is_shown_from_its_seed():
    seen = benign(300)
    attacked = look(model(), seen.x + 0.6 * randn(300, 8, seed=3, dtype=torch.float64), LAYERS)
    fit = [TrainedDetector.fit(seen, attacked, ("2",), steps=40, seed=s) for s in (0, 0, 1)]
    assert torch.equal(fit[0].hidden, fit[1].hidden)
    assert not torch.equal(fit[0].hidden, fit[2].hidden)
    assert (fit[0].score(attacked) > 0).double().mean() > 0.8 > 0.2 > (fit[0].score(seen) > 0).double().mean()


def test_activations_outside_the_range_are_measured_in_deviations():
    f = rand(500, 3, dtype=torch.float64)
    detector = ActivationAnomaly.fit(of(f), zeros(500), "f", sharpness=50.0)
    far = torch.full((1, 3), 0.5, dtype=torch.float64)
    far[0, 1] = f[:, 1].max() + 7 * f[:, 1].std()
    assert float(detector.score(of(far))) == pytest.approx(7 / 3, rel=1e-6)
    with pytest.raises(DataError, match="the same for all inputs"):
        ActivationAnomaly.fit(of(torch.ones(5, 2)), zeros(5), "f")


def test_reconstruction_errors_of_the_wrong_shape_are_refused():
    class Wrong:
        def error(self, x):
            return x

    with pytest.raises(ModelError, match=r"shape \(3, 8\) for 3 inputs"):
        ReconstructionError(Wrong()).score(benign(3))
