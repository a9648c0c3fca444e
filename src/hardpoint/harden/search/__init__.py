"""``hp.search``: which architecture of a given size trains to the most robust network."""

from hardpoint.harden.search.architecture import Activation, Architecture, Head, Normalisation
from hardpoint.harden.search.limits import Limits
from hardpoint.harden.search.result import SearchResult
from hardpoint.harden.search.search import search
from hardpoint.harden.search.space import Space

__all__ = [
    "Activation",
    "Architecture",
    "Head",
    "Limits",
    "Normalisation",
    "SearchResult",
    "Space",
    "search",
]
