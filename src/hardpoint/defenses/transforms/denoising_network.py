"""Networks from an input to the like: small convolutions for images, a perceptron for tables."""

from __future__ import annotations

from torch import Tensor, nn

from hardpoint.core.errors import DataError


class Correction(nn.Module):
    """Adds to its input what ``layers`` make of it."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.layers(x)
        return x + made


def denoising_network(shape: tuple[int, ...], hidden: int = 0, *, residual: bool = False) -> nn.Module:
    """Three convolutions for inputs ``[n, (channels,) height, width]``, a perceptron with two hidden layers for
    ``[n, d]``; first weights are drawn by torch's own generator.

    Args:
        shape: of one input.
        hidden: channels, or for tables numbers, of the hidden layers; 16 and half the features by default.
        residual: the network says what to add to an input, and at first adds nothing.

    Raises:
        DataError: for other shapes.

    >>> import torch
    >>> x = torch.rand(2, 3, 8, 8)
    >>> torch.equal(denoising_network((3, 8, 8), residual=True)(x), x)
    True
    """
    if len(shape) not in (1, 2, 3) or 0 in shape:
        raise DataError(
            f"there is no denoising network for inputs of shape {tuple(shape)}",
            "give images [n, (channels,) height, width] or rows [n, d]",
        )
    first, last = _image_layers(shape, hidden or 16) if len(shape) > 1 else _table_layers(shape[0], hidden)
    if residual:
        for weight in last.parameters():
            nn.init.zeros_(weight)
    layers = nn.Sequential(*first, last)
    if len(shape) == 2:
        layers = nn.Sequential(nn.Unflatten(1, (1, shape[0])), *layers, nn.Flatten(1, 2))
    return Correction(layers) if residual else layers


def _image_layers(shape: tuple[int, ...], hidden: int) -> tuple[list[nn.Module], nn.Module]:
    channels = shape[0] if len(shape) == 3 else 1
    before = [
        nn.Conv2d(channels, hidden, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(hidden, hidden, 3, padding=2, dilation=2),
        nn.GELU(),
    ]
    return before, nn.Conv2d(hidden, channels, 3, padding=1)


def _table_layers(features: int, hidden: int) -> tuple[list[nn.Module], nn.Module]:
    middle = hidden or max(2, features // 2)
    before = [nn.Linear(features, 2 * middle), nn.GELU(), nn.Linear(2 * middle, middle), nn.GELU()]
    return before, nn.Linear(middle, features)
