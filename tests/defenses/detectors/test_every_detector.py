"""What holds for every detector."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from hardpoint.core.errors import DataError, HardpointError, ModelError, NothingToTest
from hardpoint.defenses.calibration import auroc
from hardpoint.defenses.detectors import (
    ActivationAnomaly,
    DeepNearestNeighbours,
    KernelDensity,
    LayerDisagreement,
    LocalDimensionality,
    Mahalanobis,
    NearestNeighbours,
    PredictiveUncertainty,
    TrainedDetector,
)
from hardpoint.defenses.looking import look
from hardpoint.defenses.seen import Detector, Seen
from small_models import labelled, rand
from watched import LAYERS, benign, detectors, model, scored

NAMES = sorted(detectors())
SMOOTH = [n for n in NAMES if not isinstance(detectors()[n], DeepNearestNeighbours | PredictiveUncertainty)]
FITS = [
    lambda seen, y: ActivationAnomaly.fit(seen, y, "4"),
    lambda seen, y: DeepNearestNeighbours.fit(seen, y, LAYERS, k=5),
    lambda seen, y: KernelDensity.fit(seen, y, "4"),
    lambda seen, y: LayerDisagreement.fit(seen, y, LAYERS),
    lambda seen, y: LocalDimensionality.fit(seen, y, "4", k=5),
    lambda seen, y: Mahalanobis.fit(seen, y, "4"),
    lambda seen, y: NearestNeighbours.fit(seen, y, "4", k=5),
]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_detector_that_describes_itself(name):
    detector = detectors()[name]
    assert isinstance(detector, Detector)
    assert json.loads(json.dumps(detector.describe()))["kind"]
    assert set(detector.layers) <= set(LAYERS)
    score = scored(detector, benign(5))
    assert score.shape == (5,)
    assert score.dtype == torch.float64
    assert torch.isfinite(score).all()


@pytest.mark.parametrize("name", [n for n in NAMES if n != "predictive uncertainty"])
def test_rows_do_not_depend_on_their_batch_mates(name):
    detector, x = detectors()[name], benign(40).x
    whole = scored(detector, look(model(), x, LAYERS))
    alone = torch.cat([scored(detector, look(model(), row, LAYERS)) for row in x.split(1)])
    torch.testing.assert_close(whole, alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_are_those_of_finite_differences(name):
    detector = detectors()[name]
    x = rand(3, 8, seed=5, dtype=torch.float64).requires_grad_(True)
    assert torch.autograd.gradcheck(
        lambda z: detector.score(look(model(), z, LAYERS)), (x,), atol=1e-5, rtol=1e-3
    )


@pytest.mark.parametrize("name", NAMES)
def test_it_scores_in_the_type_of_what_it_is_given(name):
    seen = benign(6)
    single = Seen(
        seen.x.float(),
        seen.logits.float(),
        {k: f.float() for k, f in seen.features.items()},
        model(torch.float32),
    )
    if name == "predictive uncertainty":
        single = replace(single, scores_of=torch.nn.Dropout(0.5))
    score = detectors()[name].score(single)
    assert score.dtype == torch.float32
    if name != "predictive uncertainty":
        torch.testing.assert_close(score.double(), detectors()[name].score(seen), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", [n for n in NAMES if detectors()[n].layers])
def test_a_layer_that_was_not_looked_at_is_named(name):
    detector, seen = detectors()[name], benign(3)
    with pytest.raises(ModelError, match="not looked at; did you mean|not looked at; use one of"):
        detector.score(replace(seen, features={"6": seen.logits}))
    with pytest.raises(ModelError, match=r"not looked at; name it in look\(layers="):
        detector.score(replace(seen, features={}))


@pytest.mark.parametrize("fit", FITS)
def test_fits_refuse_hostile_input_and_repeat_exactly(fit):
    seen = benign(200)
    y = labelled(model(), seen.x)
    first, second = fit(seen, y), fit(seen, y)
    assert torch.equal(first.score(seen), second.score(seen))
    bad = {name: f.clone() for name, f in seen.features.items()}
    bad["4"][7, 0] = torch.nan
    with pytest.raises(DataError, match="row 7 of the features of layer '4'"):
        fit(replace(seen, features=bad), y)
    with pytest.raises(DataError, match="the labels have shape"):
        fit(seen, y[:-1])
    with pytest.raises(DataError, match="the labels have shape"):
        fit(seen, y.double())
    with pytest.raises(DataError, match="the label of row 3 is 9"):
        fit(seen, y.index_fill(0, torch.tensor([3]), 9))
    nobody = Seen(seen.x[:0], seen.logits[:0], {name: f[:0] for name, f in seen.features.items()})
    with pytest.raises((NothingToTest, HardpointError)):
        fit(nobody, y[:0])


def test_fitting_leaves_no_graph_behind_and_draws_nothing():
    x = rand(120, 8, dtype=torch.float64).requires_grad_(True)
    seen, y = look(model(), x, LAYERS), labelled(model(), x)
    state = torch.get_rng_state()
    for fit in FITS:
        detector = fit(seen, y)
        for value in vars(detector).values():
            for part in value if isinstance(value, tuple) else (value,):
                assert not (isinstance(part, torch.Tensor) and part.requires_grad)
    TrainedDetector.fit(seen, seen, LAYERS, steps=5)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", ["activation", "kernel", "Mahalanobis", "nearest", "trained"])
def test_what_lies_far_from_benign_inputs_is_more_suspicious(name):
    seen = benign(200)
    strange = look(model(), 0.5 + 6 * (rand(200, 8, seed=8, dtype=torch.float64) - 0.5), LAYERS)
    for detector in (d for n, d in detectors().items() if n.startswith(name)):
        assert auroc(detector.score(seen), detector.score(strange)).naive > 0.7, detector.name


@pytest.mark.parametrize("name", ["energy", "entropy", "margin", "max logit"])
def test_unsure_answers_are_more_suspicious_than_sure_ones(name):
    logits = torch.tensor([[9.0, 0, 0], [2, 1, 0]])
    sure, unsure = detectors()[name].score(Seen(logits, logits)).tolist()
    assert sure < unsure
