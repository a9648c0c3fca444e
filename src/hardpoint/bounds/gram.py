"""How much a convolution's channels have in common: the products of its columns, without its matrix."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def phases(kernel: Tensor, stride: tuple[int, int]) -> Tensor:
    """The kernel ``[o, i, h, w]`` of a convolution with ``stride`` as that of one without, over ``i * s * t`` channels.

    A convolution with a stride of (s, t) is one without on the input cut into blocks of s × t, whose positions are
    channels.

    >>> import torch
    >>> phases(torch.arange(4.0).view(1, 1, 2, 2), (2, 2)).shape
    torch.Size([1, 4, 1, 1])
    """
    (s, t), (h, w) = stride, (kernel.shape[2], kernel.shape[3])
    padded = functional.pad(kernel, (0, -w % t, 0, -h % s))
    o, i, rows, columns = padded.shape
    blocks = padded.reshape(o, i, rows // s, s, columns // t, t)
    return blocks.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)


def unphased(values: Tensor, kernel: Tensor, stride: tuple[int, int]) -> Tensor:
    """One number per channel of ``phases(kernel, stride)``, laid over ``kernel``: ``[1, i, h, w]``."""
    (s, t), (h, w) = stride, (kernel.shape[2], kernel.shape[3])
    tile = values.view(1, kernel.shape[1], s, t)
    return tile.repeat(1, 1, -(-h // s), -(-w // t))[:, :, :h, :w]


def shared(kernel: Tensor) -> Tensor:
    """``[i, i]``: for two input channels of a convolution without stride, the sum over all shifts of the absolute inner
    products of their columns.

    Over an input without end and without a border; borders and strides only leave out rows of that matrix.

    >>> import torch
    >>> shared(torch.tensor([[1.0, 2.0]]).view(1, 1, 1, 2))
    tensor([[9.]])
    """
    h, w = kernel.shape[2:]
    columns = kernel.transpose(0, 1)  # [i, o, h, w]
    products = functional.conv2d(columns, columns, padding=(h - 1, w - 1))
    return products.abs().sum((2, 3))
