"""Layers whose answers change no faster than their inputs."""

from hardpoint.harden.layers.almost_orthogonal import almost_orthogonal
from hardpoint.harden.layers.group_sort import GroupSort
from hardpoint.harden.layers.spectral import spectrally_normed

__all__ = ["GroupSort", "almost_orthogonal", "spectrally_normed"]
