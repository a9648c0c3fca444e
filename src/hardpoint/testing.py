"""Robustness as a test: for pytest suites and continuous integration."""

from __future__ import annotations

from typing import Any

from hardpoint.assess import Result
from hardpoint.assess import assess as run_assess
from hardpoint.threats.perturbation import Perturbation
from hardpoint.threats.threat import Threat


def assert_robust(
    model: Any,
    data: Any,
    threat: Threat | Perturbation,
    *,
    at_least: float,
    **settings: Any,
) -> Result:
    """Fail unless the model keeps a robust accuracy of ``at_least`` and nothing voids the number.

    Args:
        model: as for ``hardpoint.assess``.
        data: a ``(x, y)`` pair or a ``Dataset``.
        threat: a threat or a perturbation.
        at_least: the robust accuracy asked for, in [0, 1].
        settings: further arguments of ``hardpoint.assess``, for example ``mode`` or ``seed``.

    Raises:
        AssertionError: when the number is lower, the run is incomplete, or a finding voids it; says which.

    >>> import torch
    >>> from hardpoint import Linf
    >>> model = torch.nn.Linear(2, 2).eval()
    >>> x = torch.rand(32, 2, generator=torch.Generator().manual_seed(0))
    >>> assert_robust(model, (x, model(x).argmax(1)), Linf(0.0), at_least=0.9).robust_accuracy.value
    1.0
    """
    __tracebackhide__ = True
    x, y = data if isinstance(data, tuple) else (data, None)
    result = run_assess(model, x, y, threat=threat, gate=at_least, **{"progress": False, **settings})
    problems = [str(f) for f in result.findings if f.severity.word == "fail"]
    if result.robust_accuracy.value < at_least:
        problems.insert(0, f"robust accuracy is {result.robust_accuracy}, asked for {100 * at_least:g} %")
    if not result.record.complete:
        problems.append("the budget ran out before every input was attacked in full")
    if problems:
        raise AssertionError("; ".join(problems))
    return result
