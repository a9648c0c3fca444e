"""One sticker for every traffic sign: train a patch on some signs, and measure what it does to others.

Needs the German traffic signs (GTSRB) as ``gtsrb_32x32_subset.npz`` under ``$HARDPOINT_DATA/images/gtsrb``: ``x`` uint8
[n, 32, 32, 3], ``y``, and ``is_test``, split by track so that no sign is in both parts. Writes ``patch.png`` (the
patch, then signs without and with it) and a report of the patches made for each sign alone.

python traffic_sign_patch.py [STEPS [EPOCHS]]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import hardpoint as hp
from hardpoint.attacks import Poses, UniversalPatch
from hardpoint.report.png import png

FILE = Path(os.environ.get("HARDPOINT_DATA", "../shared/data")) / "images/gtsrb/gtsrb_32x32_subset.npz"
# black, white, and the strong colours that a cheap printer holds
INKS = ((0, 0, 0), (1, 1, 1), (0.8, 0.1, 0.1), (0.9, 0.8, 0.1), (0.1, 0.5, 0.2), (0.1, 0.2, 0.6))


def signs() -> tuple[Tensor, Tensor, Tensor]:
    """Images in [0, 1], labels, and which are for testing."""
    with np.load(FILE, allow_pickle=False) as file:
        x = torch.from_numpy(file["x"]).permute(0, 3, 1, 2).float() / 255
        return x, torch.from_numpy(file["y"]).long(), torch.from_numpy(file["is_test"]).bool()


def trained(x: Tensor, y: Tensor, epochs: int) -> nn.Module:
    """A small convolutional network."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(24, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(48, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(1024, 43)),
    )
    adam = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            adam.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            adam.step()
    return net.eval()


def main(steps: int = 150, epochs: int = 6, shown: int = 8) -> None:
    if not FILE.exists():
        print(f"no traffic signs at {FILE}; set HARDPOINT_DATA")
        return
    x, y, is_test = signs()
    net = trained(x[~is_test], y[~is_test], epochs)
    with torch.no_grad():
        right = net(x[is_test]).argmax(1) == y[is_test]
    print(f"accuracy on {len(right)} signs never seen: {100 * right.double().mean():.1f} %")

    sticker = hp.Patch(area=0.06, palette=INKS)
    attack = UniversalPatch(steps=steps, poses=Poses(rotation=20, sizes=(0.6, 0.8, 1.0)), smoothness=0.1)
    rows = torch.randperm(int((~is_test).sum()), generator=torch.Generator().manual_seed(0))[:1500]
    result = attack(net, (x[~is_test][rows], y[~is_test][rows]), (x[is_test], y[is_test]), sticker)
    print(
        f"one patch for all, six inks, anywhere, turned up to 20°: {result.success}; plain grey: {result.control}"
    )
    for cell in result.cells:
        if cell.size == 1.0:
            print(
                f"  {cell.place:14} {100 * cell.success.value:5.1f} %   grey {100 * cell.control.value:5.1f} %"
            )

    some = torch.arange(0, int(is_test.sum()), 25)
    small = hp.Patch(area=0.02)
    alone = hp.assess(net, x[is_test][some], y[is_test][some], threat=small, name="one patch per sign")
    print(f"a patch of a third of that area, made for each sign alone, leaves {alone.robust_accuracy}")
    print(alone.report("traffic_signs.html"))

    fell = result.broken.nonzero().squeeze(1)[:shown]
    before, after = x[is_test][result.index[fell]], result.adversarial[fell]
    big = nn.functional.interpolate(result.patch.unsqueeze(0), size=(64, 64))
    strip = [nn.functional.interpolate(part, scale_factor=2) for part in (before, after)]
    rows_of = [torch.cat([big if k == 0 else torch.ones_like(big), part], 0) for k, part in enumerate(strip)]
    picture = torch.cat([torch.cat(list(row), 2) for row in rows_of], 1)
    Path("patch.png").write_bytes(png((picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()))


if __name__ == "__main__":
    main(*(int(given) for given in sys.argv[1:]))
