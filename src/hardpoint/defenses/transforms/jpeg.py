"""Lossy compression."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardpoint.core.errors import DataError, MissingExtra
from hardpoint.defenses.stage import GradientPath
from hardpoint.defenses.transforms._shared import as_images, value_range, whole_number


@dataclass(frozen=True)
class JpegCompression:
    """Every image as it looks after it was saved as a JPEG file; exactly that, by pillow.

    Dziugaite, Ghahramani, Roy, "A study of the effect of JPG compression on adversarial images" (2016); Guo, Rana,
    Cissé, van der Maaten, "Countering adversarial images using input transformations" (ICLR 2018), quality 75.
    Colour is halved in both directions, as is pillow's way. Takes images ``[n, 1 or 3, height, width]`` or
    ``[n, height, width]``; three channels are red, green, blue. Numbers are rounded to 8 bits first; a row that holds
    NaN becomes NaN, lest it go unseen. Runs on the CPU.

    Args:
        quality: 1 to 100.
        low: the value of black.
        high: the value of white.

    Raises:
        ConfigError: for settings that make no sense.
        MissingExtra: without pillow.
        DataError: for inputs that are not such images.

    >>> grey = torch.full((1, 8, 8), 0.5)
    >>> round(float(JpegCompression(75).apply(grey)[0, 0, 0]) * 255)
    128
    """

    gradient: ClassVar[GradientPath] = GradientPath.STRAIGHT_THROUGH
    is_random: ClassVar[bool] = False

    quality: int = 75
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        whole_number("JpegCompression", "quality", self.quality, 1, 100)
        value_range("JpegCompression", self.low, self.high)
        _pillow()

    def apply(self, x: Tensor) -> Tensor:
        images = as_images("JpegCompression", x.detach())
        if images.shape[1] not in (1, 3):
            raise DataError(
                f"JpegCompression is for grey or colour images, these have {images.shape[1]} channels",
                "give images of 1 or 3 channels",
            )
        width = self.high - self.low
        share = ((images - self.low) / width).clamp(0.0, 1.0)
        pixels = torch.round(share * 255).nan_to_num().to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy()
        made = [torch.from_numpy(self._saved(one)) for one in pixels]
        if not made:
            return x.detach()
        back = torch.stack(made).permute(0, 3, 1, 2).to(x) / 255 * width + self.low
        sound = ~images.isnan().flatten(1).any(1).view(-1, 1, 1, 1)
        return torch.where(sound, back.clamp(self.low, self.high), torch.nan).reshape(x.shape)

    def _saved(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """``[height, width, channels]``, saved and read again."""
        image = _pillow()
        with io.BytesIO() as file:
            image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(
                file, format="JPEG", quality=self.quality
            )
            with image.open(file, formats=("JPEG",)) as read:
                return np.array(read, dtype=np.uint8).reshape(pixels.shape)

    def describe(self) -> dict[str, Any]:
        return {"kind": "JpegCompression", **asdict(self)}


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtra("images", "JPEG compression") from None
    return Image
