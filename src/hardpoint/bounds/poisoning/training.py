"""How one member of an ensemble learns, from whatever library it comes."""

from __future__ import annotations

import copy
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from hardpoint.core.errors import BadModelOutput, ModelError
from hardpoint.engine.guard import full_precision, preserved_random_state
from hardpoint.models.base import Model
from hardpoint.models.torch import class_scores


@runtime_checkable
class Labels(Protocol):
    """Something that was trained, and answers labels: what scikit-learn calls a fitted classifier."""

    def predict(self, x: Any) -> Any:
        """The labels, whole numbers ``[n]``, of rows ``[n, features]`` as a NumPy array."""
        ...


class Train(Protocol):
    """How a member is trained: a function of the points, in this order, and of the seed, and of nothing else."""

    def __call__(self, x: Tensor, y: Tensor, seed: int, /) -> nn.Module | Labels:
        """A trained network (any mode), or a fitted classifier.

        Args:
            x: inputs ``[m, ...]``, m ≥ 1, of at least two classes.
            y: int64 ``[m]``.
            seed: for what the training draws. The global generators of Python, NumPy and torch are seeded with it too.
        """
        ...


class OfEstimator:
    """Trains copies of a scikit-learn classifier, or of anything with its ``fit`` and ``predict``.

    Args:
        estimator: not fitted; its ``random_state`` is set, where it has one.

    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> fitted = OfEstimator(KNeighborsClassifier(1))(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1]), 0)
    >>> fitted.predict([[0.9]])
    array([1])
    """

    def __init__(self, estimator: Any) -> None:
        if isinstance(estimator, type) or not (hasattr(estimator, "fit") and hasattr(estimator, "predict")):
            raise ModelError(
                f"{estimator!r} is no estimator",
                "give one with fit and predict, for example LogisticRegression()",
            )
        self.estimator = estimator

    def __call__(self, x: Tensor, y: Tensor, seed: int, /) -> Labels:
        own = copy.deepcopy(self.estimator)
        if hasattr(own, "get_params"):
            drawn = [name for name in own.get_params() if name.split("__")[-1] == "random_state"]
            own.set_params(**dict.fromkeys(drawn, seed % 2**32))
        fitted: Labels = own.fit(x.flatten(1).numpy(), y.numpy())
        return own if fitted is None else fitted


class Always:
    """The answer of a member that saw one class only, or no point at all."""

    def __init__(self, label: int) -> None:
        self.label = label

    def predict(self, x: Any) -> Any:
        return np.full(len(x), self.label, dtype=np.int64)


def trained(train: Train, x: Tensor, y: Tensor, seed: int) -> nn.Module | Labels:
    """One member. Of no point it learns class 0, of one class that class; the random state stays as it was."""
    if not len(x) or bool((y == y[0]).all()):
        return Always(int(y[0]) if len(y) else 0)
    with preserved_random_state(seed):
        member = train(x.clone(), y.clone(), seed)
    if isinstance(member, nn.Module):
        return member.eval()
    if not isinstance(member, Labels) or isinstance(member, type):
        raise ModelError(
            f"training returned {type(member).__name__}",
            "return a network or a fitted classifier with predict",
        )
    return member


@full_precision()
def labels_from(member: nn.Module | Labels, x: Tensor, classes: int) -> Tensor:
    """int64 ``[n]``: what a member answers.

    Raises:
        BadModelOutput: for anything but whole numbers of 0 or more below ``classes``.
    """
    if isinstance(member, nn.Module):
        with torch.no_grad():
            said = class_scores(member(x), probabilities=False).argmax(1).cpu()
    elif isinstance(member, Model):
        said = member.predict(x).cpu()
    else:
        answer = np.asarray(member.predict(x.flatten(1).numpy()))
        whole = answer.dtype.kind in "iu" or (
            answer.dtype.kind == "f" and bool((answer == answer.round()).all())
        )
        if not whole:
            raise BadModelOutput(f"a member answers {answer.dtype}", "train it on whole numbers as labels")
        said = torch.from_numpy(answer.astype(np.int64))
    if said.shape != (len(x),) or (len(said) and not 0 <= int(said.min()) <= int(said.max()) < classes):
        raise BadModelOutput(
            f"a member answers labels of shape {tuple(said.shape)} for {len(x)} inputs and {classes} classes",
            "return one label per input, from 0 to below the number of classes",
        )
    return said
