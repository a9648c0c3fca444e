"""The layers of a network that weights can be bound for."""

from __future__ import annotations

from torch import nn

from hardpoint.core.errors import ModelError


def weighted_layers(network: nn.Module) -> list[tuple[str, nn.Linear | nn.Conv2d]]:
    """Linear layers and convolutions by name; raises ``ModelError`` where there is none, or other layers with weight
    matrices."""
    found: list[tuple[str, nn.Linear | nn.Conv2d]] = []
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            found.append((name, layer))
        elif any(weight.dim() > 1 for weight in layer.parameters(recurse=False)):
            raise ModelError(
                f"no bound is known for {name!r} ({type(layer).__name__})", "use Linear and Conv2d layers"
            )
    if not found:
        raise ModelError("the network has no linear layer or convolution", "give one that has")
    return found


def check_convolution(layer: nn.Conv2d, name: str) -> None:
    """Raise ``ModelError`` for a convolution whose matrix is not that of its kernel over an input padded with zeros."""
    if layer.groups != 1 or layer.dilation != (1, 1) or layer.padding_mode != "zeros":
        raise ModelError(
            f"convolution {name!r} has groups, dilation or padding other than zeros",
            "give it groups=1, dilation=1 and padding_mode='zeros'",
        )
