"""A classifier smoothed by noise, and its certificates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hardpoint.bounds.smoothing.asking import Base
from hardpoint.bounds.smoothing.binomial import p_value
from hardpoint.bounds.smoothing.certificates import (
    ABSTAINED,
    SmoothedCertificates,
    check_alpha,
    goal_of,
    proven_radius,
)
from hardpoint.bounds.smoothing.checks import (
    Radius,
    asked_radius,
    check_estimator,
    checked_inputs,
    checked_labels,
)
from hardpoint.bounds.smoothing.estimators import Anytime, Estimator
from hardpoint.bounds.smoothing.noise import Noise, Norm
from hardpoint.bounds.smoothing.sampling import Counted, Purpose, Sampler
from hardpoint.core.errors import ConfigError, DataError
from hardpoint.engine.guard import full_precision, preserved_random_state
from hardpoint.models.base import Model

_BATCH = {"cpu": 200}  # what fits the cache of a processor
_BATCH_ELSEWHERE = 2000
_CHUNK = 100  # draws of ``predict`` at a time
_TRIED = 2  # inputs, with as much noise, that the network is tried on before it is trusted
_NONE = torch.zeros(0, dtype=torch.int64)
_NOTHING = Counted(_NONE.double(), _NONE, _NONE, _NONE)


@dataclass(frozen=True, eq=False)
class Smoothed:
    """The classifier that answers the class which a network gives most often to an input under noise.

    It holds within a radius that follows from how often (Cohen, Rosenfeld and Kolter, ICML 2019), whatever the network
    is. The network should have been trained under the same noise (``hp.recipes.Noise``), or it answers noise.

    Noise is added in the units of the model's input, before any normalisation inside the model, and is not cut to the
    input range.

    Args:
        model: a module in evaluation mode, or any model, also one that shows labels only.
        noise: what is put on inputs; it decides which threat is certified against.
        classes: how many there are; needed for models that show labels only.
        denoise: applied to noisy inputs before the model (Salman, Sun, Yang, Kapoor and Kolter, "Denoised smoothing: a
            provable defense for pretrained classifiers", NeurIPS 2020); part of what is certified.

    Raises:
        ModelError: for a network in training mode.

    >>> from hardpoint.bounds.smoothing import Gaussian
    >>> net = nn.Linear(2, 2).eval().requires_grad_(False)
    >>> _ = net.weight.copy_(torch.tensor([[-1.0, 0.0], [1.0, 0.0]])), net.bias.copy_(torch.tensor([0.5, -0.5]))
    >>> proven = Smoothed(net, Gaussian(0.25)).certify(torch.tensor([[0.9, 0.5]]), radius=0.3)
    >>> proven.predicted, proven.certified
    (tensor([1]), tensor([True]))
    """

    model: nn.Module | Model
    noise: Noise
    classes: int | None = None
    denoise: nn.Module | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.noise, Noise):
            raise ConfigError(f"{self.noise!r} is not a noise", "give one, for example Gaussian(0.25)")
        if self.classes is not None and (not isinstance(self.classes, int) or self.classes < 2):
            raise ConfigError(f"classes is {self.classes!r}", "give how many there are, 2 or more")
        Base.of(self.model, self.denoise)

    @property
    def certifies(self) -> Norm:
        """The kind of threat that certificates are against."""
        return self.noise.norm

    @torch.no_grad()
    def certify(
        self,
        x: Tensor,
        y: Tensor | None = None,
        radius: Radius | None = None,
        *,
        estimator: Estimator | None = None,
        alpha: float = 0.001,
        seed: int = 0,
        batch_size: int | None = None,
    ) -> SmoothedCertificates:
        """What is proven of each input.

        The class is chosen by draws of its own, or is the label where labels are given; the statement rests on draws
        that had no part in the choice, so it fails with probability ``alpha`` in all. Inputs must not have been
        made by somebody who knows the seed: draw a fresh one where that could be.

        Args:
            x: floats ``[n, ...]`` inside the model's input range.
            y: int64 ``[n]``: prove that these are answered, and nothing of inputs that are answered otherwise.
            radius: what to prove: a number, one for each input ``[n]``, or a threat as ``L2(0.5)``. None: how far it
                holds, which takes many more draws.
            estimator: how many draws: ``Anytime()`` by default, or ``Fixed()``.
            alpha: the risk that one statement is false, in (0, 0.25].
            seed: of the draws; the same for any batch size.
            batch_size: noisy inputs at a time; by the device where None.

        Raises:
            ThreatError: for a threat in another norm than the noise protects from.
            DataError: for inputs outside the range, labels that the model does not have, a radius below 0.
            ConfigError: for so few draws that nothing could ever be proven.
            ModelError: for a model whose answers are random or depend on the rest of the batch.
        """
        estimator = Anytime() if estimator is None else estimator
        check_estimator(estimator, alpha)
        asked = asked_radius(radius, len(checked_inputs(x)), self.noise)
        goal = goal_of(self.noise, tuple(x.shape[1:]), alpha, asked)
        with full_precision(), preserved_random_state(seed=0):
            sampler = self._sampler(x, seed, estimator.step, batch_size)
            guess = self._guess(sampler, y, estimator.n0)
            rows = self._worth_drawing(guess, goal.target, estimator.cap(alpha), sampler)
            found = sampler.count(guess, rows, estimator, goal) if sampler else _NOTHING
        return self._certificates(found, guess, asked, x, alpha, seed, estimator)

    @torch.no_grad()
    def predict(
        self,
        x: Tensor,
        *,
        n: int = 1000,
        alpha: float = 0.001,
        seed: int = 0,
        batch_size: int | None = None,
    ) -> Tensor:
        """int64 ``[n]``: what the smoothed classifier answers, or -1 where ``n`` draws leave it open.

        With probability 1 - ``alpha`` an answer is the smoothed classifier's (Cohen et al. 2019, algorithm PREDICT):
        the two most frequent classes are told apart by the exact two-sided test.

        Args:
            x: floats ``[n, ...]`` inside the model's input range.
            n: draws for each input.
            alpha: the risk that an answer is another one, in (0, 0.25].
            seed: of the draws.
            batch_size: noisy inputs at a time; by the device where None.

        Raises:
            ConfigError: for so few draws that no answer is possible.
        """
        check_alpha(alpha)
        if not isinstance(n, int) or n < 1 or float(p_value(torch.tensor([n]), torch.tensor([0]))) > alpha:
            raise ConfigError(
                f"{n!r} draws never give an answer at alpha {alpha:g}", "draw more, for example 1000"
            )
        with full_precision(), preserved_random_state(seed=0):
            sampler = self._sampler(checked_inputs(x), seed, min(n, _CHUNK), batch_size)
            if sampler is None:
                return torch.zeros(0, dtype=torch.int64, device=x.device)
            most = sampler.votes(Purpose.ANSWER, n).topk(2, dim=1)
        clear = p_value(most.values[:, 0], most.values[:, 1]) <= alpha
        return torch.where(clear, most.indices[:, 0], ABSTAINED).to(x.device)

    def _sampler(self, x: Tensor, seed: int, step: int, batch_size: int | None) -> Sampler | None:
        """Draws for ``x``, after the network was tried on some; None where there are no inputs."""
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise ConfigError(f"the seed is {seed!r}", "give a whole number")
        if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
            raise ConfigError(f"batch_size is {batch_size!r}", "give a whole number of 1 or more")
        base = Base.of(self.model, self.denoise)
        size = batch_size or _BATCH.get(base.device.type, _BATCH_ELSEWHERE)
        outside = (~base.model.box.contains(x)).nonzero().flatten()
        if len(outside):
            raise DataError(f"row {int(outside[0])} lies outside the input range", "scale the inputs into it")
        self.noise.check(x)
        if not len(x):
            return None
        source = torch.Generator().manual_seed(0)
        drawn = self.noise.draw(_TRIED, tuple(x.shape[1:]), source, x.dtype)
        tried = self.noise.put(x[:_TRIED].cpu(), drawn.values).to(base.device)
        base = base.suited(tried)
        return Sampler(base, self.noise, x, base.classes(tried, self.classes), seed, step, size)

    def _guess(self, sampler: Sampler | None, y: Tensor | None, n0: int) -> Tensor:
        """int64 ``[n]``: the class to prove for each input."""
        if y is not None:
            n, classes = (0, 2) if sampler is None else (len(sampler.x), sampler.classes)
            return checked_labels(y, n, classes)
        if sampler is None:
            return torch.zeros(0, dtype=torch.int64)
        return sampler.votes(Purpose.CHOICE, n0).argmax(1)

    def _worth_drawing(
        self, guess: Tensor, target: Tensor | None, cap: float, sampler: Sampler | None
    ) -> Tensor:
        """The inputs of which something could be proven: a class was chosen, the radius is not beyond the cap."""
        worth = torch.ones(len(guess), dtype=torch.bool) if target is None else target <= cap
        refusal = None if sampler is None else sampler.base.refuses()
        return (worth if refusal is None else worth & (guess != refusal)).nonzero().flatten()

    def _certificates(
        self,
        found: Counted,
        guess: Tensor,
        asked: Tensor | None,
        x: Tensor,
        alpha: float,
        seed: int,
        estimator: Estimator,
    ) -> SmoothedCertificates:
        shape = tuple(x.shape[1:])
        goal = goal_of(self.noise, shape, alpha, asked)
        radius = proven_radius(found.low, goal, asked)
        some = found.low > 0.5
        certified = some if asked is None or goal.target is None else some & (found.low >= goal.target)
        there = x.device
        return SmoothedCertificates(
            predicted=torch.where(some, guess, ABSTAINED).to(there),
            radius=radius.to(there),
            certified=certified.to(there),
            samples=found.samples.to(there),
            guess=guess.to(there),
            hits=found.hits.to(there),
            at=found.at.to(there),
            asked=None if asked is None else asked.to(there),
            alpha=alpha,
            seed=seed,
            noise=self.noise,
            estimator=estimator,
            shape=shape,
        )
