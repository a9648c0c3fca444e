"""How different two colours look."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
_WHITE = (0.95047, 1.0, 1.08883)  # D65


def lab_from_srgb(rgb: Tensor) -> Tensor:
    """CIELAB (D65) of sRGB colours in [0, 1], the channels on axis 1 (IEC 61966-2-1, CIE 15).

    >>> lab_from_srgb(torch.ones(1, 3, dtype=torch.float64)).round(decimals=2).abs()
    tensor([[100.,   0.,   0.]], dtype=torch.float64)
    """
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4)
    matrix = rgb.new_tensor(_TO_XYZ) / rgb.new_tensor(_WHITE).unsqueeze(1)
    t = torch.tensordot(linear, matrix, dims=([1], [1])).movedim(-1, 1)
    knee = 6 / 29
    f = torch.where(t > knee**3, t.clamp_min(knee**3) ** (1 / 3), t / (3 * knee**2) + 4 / 29)
    x, y, z = f.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def ciede2000(first: Tensor, second: Tensor) -> Tensor:
    """The CIEDE2000 difference of CIELAB colours, axis 1 removed; about 1 is just visible, 100 black and white.

    CIE 142-2001, in the steps of Sharma, Wu and Dalal, "The CIEDE2000 color-difference formula" (Color Research and
    Application 30, 2005), with unit weights.

    >>> pair = torch.tensor([[50.0, 2.5, 0.0]]).double(), torch.tensor([[50.0, 0.0, -2.5]]).double()
    >>> round(float(ciede2000(*pair)), 4)
    4.3065
    """
    l1, a1, b1 = first.unbind(1)
    l2, a2, b2 = second.unbind(1)
    mean7 = ((torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2) ** 7
    stretch = 1.5 - 0.5 * torch.sqrt(mean7 / (mean7 + 25.0**7))
    a1, a2 = a1 * stretch, a2 * stretch
    c1, c2 = torch.hypot(a1, b1), torch.hypot(a2, b2)
    h1, h2 = torch.atan2(b1, a1) % (2 * math.pi), torch.atan2(b2, a2) % (2 * math.pi)
    grey = c1 * c2 == 0
    turn = (h2 - h1 + math.pi) % (2 * math.pi) - math.pi
    # half a turn counts as +π in either order: only the square and a vanishing product depend on it
    turn = torch.where(grey, 0.0, turn)
    hue_gap = 2 * torch.sqrt(c1 * c2) * torch.sin(turn / 2)
    total = h1 + h2
    far = (h1 - h2).abs() > math.pi
    mean_hue = torch.where(
        far, torch.where(total < 2 * math.pi, total / 2 + math.pi, total / 2 - math.pi), total / 2
    )
    mean_hue = torch.where(grey, total, mean_hue)
    mean_l, mean_c = (l1 + l2) / 2, (c1 + c2) / 2

    def wave(factor: float, shift: float) -> Tensor:
        return torch.cos(factor * mean_hue + math.radians(shift))

    t = 1 - 0.17 * wave(1, -30) + 0.24 * wave(2, 0) + 0.32 * wave(3, 6) - 0.20 * wave(4, -63)
    l_scale = 1 + 0.015 * (mean_l - 50) ** 2 / torch.sqrt(20 + (mean_l - 50) ** 2)
    c_scale, h_scale = 1 + 0.045 * mean_c, 1 + 0.015 * mean_c * t
    blue = math.radians(30) * torch.exp(-(((torch.rad2deg(mean_hue) - 275) / 25) ** 2))
    mean_c7 = mean_c**7
    twist = -torch.sin(2 * blue) * 2 * torch.sqrt(mean_c7 / (mean_c7 + 25.0**7))
    l_part, c_part, h_part = (l2 - l1) / l_scale, (c2 - c1) / c_scale, hue_gap / h_scale
    return torch.sqrt((l_part**2 + c_part**2 + h_part**2 + twist * c_part * h_part).clamp_min(0.0))
