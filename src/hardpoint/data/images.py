"""A folder of images, one sub-folder per class.

Every image is decoded once when the folder is loaded, so that a damaged one is named before any work begins.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardpoint.core.errors import DataError, MissingExtra, NothingToTest
from hardpoint.core.suggest import did_you_mean
from hardpoint.data.mapped import Block
from hardpoint.data.npy import npy_block
from hardpoint.data.spool import NpyWriter, SpoolFolder

_READ = {".png", ".jpg", ".jpeg"}
_OTHER = {".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
_MOST_PIXELS = 1 << 26
_GREY = ("1", "L", "LA")


def image_blocks(
    folder: Path, classes: tuple[str, ...] | None, spool: SpoolFolder, limit: int | None
) -> tuple[Block, Block, str, tuple[str, ...]]:
    """Pixels uint8 ``[n, H, W]`` (all grey) or ``[n, H, W, 3]``, labels, the layout's name and the classes.

    Files are taken in name order within each class; classes in name order too, unless ``classes`` gives the order.

    Raises:
        NothingToTest: when there is no class folder or no image.
        DataError: naming the file that cannot be read, differs in size or is of another kind.
        MissingExtra: without pillow.
    """
    classes = _class_names(folder, classes)
    files = [(file, label) for label, name in enumerate(classes) for file in _files(folder / name)][:limit]
    size, grey = _common_form(file for file, _ in files)
    pixels = NpyWriter(spool.path / "x.npy", np.uint8, size if grey else (*size, 3))
    labels = NpyWriter(spool.path / "y.npy", np.int64)
    for file, label in files:
        pixels.append(_pixels(file, grey)[None])
        labels.append(np.array([label]))
    x, y = npy_block(pixels.close(), folder), npy_block(labels.close(), folder)
    return x, y, "HW" if grey else "HWC", classes


def _class_names(folder: Path, wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    found = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not found:
        raise NothingToTest(
            f"{folder} has no sub-folders", "put the images of each class in a folder of its own"
        )
    for name in wanted or ():
        if name not in found:
            raise DataError(f"{folder} has no folder for class {name!r}", did_you_mean(name, found))
    for name in found:
        if wanted is not None and name not in wanted:
            raise DataError(
                f"the folder {name!r} in {folder} is not among the classes", "name it in classes=…"
            )
    return wanted or tuple(found)


def _files(folder: Path) -> list[Path]:
    inside = sorted((p for p in folder.iterdir() if not p.name.startswith(".")), key=lambda p: p.name)
    for file in inside:
        if file.suffix.lower() in _OTHER:
            raise DataError(f"{file} is neither PNG nor JPEG", "convert it to PNG")
    images = [p for p in inside if p.suffix.lower() in _READ]
    if not images:
        raise DataError(f"{folder} holds no PNG or JPEG image", "add images or remove the folder")
    return images


def _open(file: Path) -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtra("images", "reading images") from None
    try:
        image = Image.open(file, formats=("PNG", "JPEG"))
    except Exception as error:  # decoders fail in many ways on hostile bytes
        raise DataError(f"{file} cannot be read as an image ({error})", "replace or remove it") from None
    if image.width * image.height > _MOST_PIXELS:
        image.close()
        raise DataError(f"{file} claims {image.width} x {image.height} pixels", "make it smaller")
    return image


def _common_form(files: Any) -> tuple[tuple[int, int], bool]:
    """``(height, width)`` of all images and whether all are grey, from their headers."""
    first, size, grey = None, (0, 0), True
    for file in files:
        with _open(file) as image:
            if image.mode.startswith(("I", "F")):
                raise DataError(f"{file} has more than 8 bits per value", "convert it to 8 bits")
            if first is None:
                first, size = file, (image.height, image.width)
            if (image.height, image.width) != size:
                raise DataError(
                    f"{file} is {image.width} x {image.height} pixels, {first} is {size[1]} x {size[0]}",
                    "resize all images to the model's input size",
                )
            grey = grey and image.mode in _GREY
    return size, grey


def _pixels(file: Path, grey: bool) -> NDArray[np.uint8]:
    with _open(file) as image:
        try:
            see_through = "A" in image.mode or "transparency" in image.info
            if see_through and image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
                raise DataError(f"{file} is partly transparent", "flatten it onto a background")
            return np.asarray(image.convert("L" if grey else "RGB"), dtype=np.uint8)
        except DataError:
            raise
        except Exception as error:  # decoders fail in many ways on hostile bytes
            raise DataError(f"{file} cannot be decoded ({error})", "replace or remove it") from None
