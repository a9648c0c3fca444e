"""What each layer of a module is given and answers, so that a layer can be asked again by itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hardpoint.engine.guard import preserved_random_state


@dataclass(frozen=True)
class LayerCall:
    """A layer's first call.

    Attributes:
        name: of the layer.
        depth: how many layers hold it.
        layer: the layer.
        given: the first floating-point tensor among its arguments ``[n, ...]``.
        args, kwargs: all its arguments.
        place: where ``given`` is: a position in ``args`` or a key of ``kwargs``.
    """

    name: str
    depth: int
    layer: nn.Module
    given: Tensor
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(repr=False)
    place: int | str

    def answer(self, z: Tensor) -> Tensor:
        """The layer's first tensor output for ``z`` in the place of ``given``; a random layer draws the same."""
        with torch.no_grad():
            return self._ask(z).detach()

    def slope(self, z: Tensor, weight: Tensor) -> Tensor:
        """The gradient of ``(weight * answer(z)).sum()``, 0 where there is none or it is not finite."""
        with torch.enable_grad():
            point = z.detach().requires_grad_(True)
            value = (self._ask(point) * weight).sum()
            if not value.requires_grad:
                return torch.zeros_like(z)
            gradient = torch.autograd.grad(value, point, materialize_grads=True)[0]
        return torch.nan_to_num(gradient, 0.0, 0.0, 0.0)

    def _ask(self, z: Tensor) -> Tensor:
        given = z * 1  # layers that work in place must not write to the caller's tensor
        args, kwargs = with_tensor(self.args, self.kwargs, self.place, given)
        with preserved_random_state(seed=0):
            output = tensor_of(self.layer(*args, **kwargs))
        if output is None:
            raise TypeError(f"layer {self.name!r} returned no tensor")
        return output


def with_tensor(
    args: tuple[Any, ...], kwargs: dict[str, Any], place: int | str, z: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call's arguments with ``z`` at ``place``."""
    positions = tuple(z if position == place else value for position, value in enumerate(args))
    return positions, {key: z if key == place else value for key, value in kwargs.items()}


def tensor_of(output: Any) -> Tensor | None:
    """The floating-point tensor that ``output`` is or begins with."""
    if isinstance(output, tuple | list) and output:
        output = output[0]
    return output if isinstance(output, Tensor) and output.is_floating_point() else None


def calls_of(module: nn.Module, x: Tensor) -> list[LayerCall]:
    """The first calls of all layers, in the order in which they begin, that take and return a tensor with a row for
    each of ``x``'s."""
    seen: dict[nn.Module, LayerCall] = {}
    answered: set[nn.Module] = set()
    names = {layer: name for name, layer in module.named_modules()}
    handles = []

    def before(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        place, given = first_tensor(args, kwargs)
        if given is not None and layer not in seen and given.dim() > 0 and len(given) == len(x):
            name = names[layer]
            kept = given.detach().clone()
            seen[layer] = LayerCall(name, name.count(".") + bool(name), layer, kept, args, kwargs, place)

    def after(layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        tensor = tensor_of(output)
        if tensor is not None and tensor.dim() > 0 and len(tensor) == len(x):
            answered.add(layer)

    for layer in names:
        handles.append(layer.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(layer.register_forward_hook(after))
    try:
        dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), x.dtype)
        with torch.no_grad(), preserved_random_state(seed=0):
            module(x.to(dtype))
    finally:
        for handle in handles:
            handle.remove()
    return [call for layer, call in seen.items() if layer in answered]


def first_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int | str, Tensor | None]:
    """The first floating-point tensor among a call's arguments, and where it is."""
    named: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    for place, value in named:
        if isinstance(value, Tensor) and value.is_floating_point():
            return place, value
    return 0, None
