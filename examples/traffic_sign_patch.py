"""One sticker for every traffic sign: train a patch on some signs, and measure what it does to others.

Reads the German traffic signs (GTSRB) from ``$HARDPOINT_DATA/images/gtsrb/gtsrb_32x32_subset.npz``: ``x`` uint8
[n, 32, 32, 3], ``y``, ``track``, and ``is_test``, split by track so that no sign is in both parts; without them, drawn
signs. Writes ``patch.png`` (the patch, then signs without and with it) and a report of the patches made for each sign
alone.

python traffic_sign_patch.py [STEPS [EPOCHS]]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from _signs import signs, trained
from torch import nn

import hardpoint as hp
from hardpoint.attacks import Poses, UniversalPatch
from hardpoint.report.png import png

# black, white, and the strong colours that a cheap printer holds
INKS = ((0, 0, 0), (1, 1, 1), (0.8, 0.1, 0.1), (0.9, 0.8, 0.1), (0.1, 0.5, 0.2), (0.1, 0.2, 0.6))


def main(steps: int = 150, epochs: int = 6, shown: int = 8) -> None:
    these = signs()
    x, y, is_test = these.x, these.y, these.is_test
    net = trained(these, epochs)
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
