"""What ``search`` returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hardpoint.assess.result import Result
from hardpoint.evidence.search import SearchRecord, Trial
from hardpoint.harden.search.architecture import Architecture


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The most robust network of a search.

    Attributes:
        model: the trained network, of the kind that the baseline was given as, in evaluation mode.
        architecture: how it is made; ``architecture.source()`` is a Python file that makes it.
        record: every trial.
        before, after: assessments of the trained baseline and of the network on the same test inputs; None without any.
    """

    model: Any
    architecture: Architecture
    record: SearchRecord
    before: Result | None
    after: Result | None

    @property
    def found(self) -> Trial:
        """The trial that the network is from."""
        found = self.record.found
        assert found is not None
        return found

    def __repr__(self) -> str:
        said = f"<{self.architecture}; {len(self.record.trials) - 1} trials"
        if self.before is None or self.after is None:
            return f"{said}, robust accuracy {self.found.robust}>"
        return f"{said}: robust accuracy {self.before.robust_accuracy} → {self.after.robust_accuracy}>"
