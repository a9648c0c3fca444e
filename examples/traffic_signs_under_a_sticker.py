"""A car reads traffic signs. Somebody puts a small sticker on a stop sign. What does the car read?

The sticker covers at most 4 % of the picture (a fifth of its width), may be anywhere on it, and is made for the one
sign it is put on, by somebody who has a copy of the network: the worst case. Then come four things that people put
in front of such a network: smoothing the picture (median), saving it as a JPEG file, flattening it (total variation),
and a detector that refuses signs that look unlike any the network was trained on. Each is tried twice: against
stickers that were made for the bare network, and against an attacker who knows what is in front of it. The first
number is what a demonstration shows; the second is what you have.

Reads the same photographs as ``traffic_sign_patch.py``; drawn signs without them. Writes ``sticker.png`` (stop signs
without a sticker; then with one, for the bare and for the defended network), ``sticker.svg`` (the table as bars) and
``sticker.html`` (the report of the defended network).

python traffic_signs_under_a_sticker.py [SIGNS [EPOCHS [PASSES]]]
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import torch
from _common import bars_of, chart, doubts, results_of
from _signs import Signs, signs, trained
from torch import Tensor, nn

import hardpoint as hp
from hardpoint import defenses
from hardpoint.assess.ablation import Ablation
from hardpoint.defenses.detectors import Mahalanobis
from hardpoint.models.base import Model
from hardpoint.report.png import png

LAST = "11"  # the network's last layer before it decides
FALSE_ALARMS = 0.05


def chosen(these: Signs, many: int) -> tuple[Tensor, Tensor]:
    """Which test pictures are attacked: ``many`` of stop signs, and one of each of as many other signs; and which
    calibrate the detector: those of signs that are not attacked."""
    stop = these.is_test & (these.y == these.names.index("stop"))
    rest = (these.is_test & ~stop).nonzero().squeeze(1)
    _, first = torch.unique(these.sign[rest], return_inverse=True)
    # the last picture of a sign is the one from nearest by
    nearest = torch.stack([rest[first == k][-1] for k in range(int(first.max()) + 1)])
    picked = nearest[torch.linspace(0, len(nearest) - 1, min(many, len(nearest))).round().long()]
    unseen = rest[~torch.isin(these.sign[rest], these.sign[picked])]
    return torch.cat([stop.nonzero().squeeze(1)[:many], picked]), unseen


def said_of_stops(these: Signs, table: Ablation, models: list[Model], x: Tensor, y: Tensor) -> None:
    """How many stop signs are read as what, without defence, and with all of them."""
    stop = y == these.names.index("stop")
    results = (table.undefended, table.results[-1])
    for result, model, word in zip(
        results, models, ("the bare network", "all defences together"), strict=True
    ):
        before, after = (model.predict(pictures[stop]) for pictures in (x, result.adversarial))
        names = (*these.names, "refused")
        right = int((before == y[stop]).sum())
        wrong = Counter(names[int(k)] for k in after[(before == y[stop]) & result.broken[stop]])
        told = ", ".join(f"{count} as {name}" for name, count in wrong.most_common(4))
        refused = int((before == len(these.names)).sum())
        print(
            f"Stop signs, {word}: of {int(stop.sum())}, {right} are read and {refused} refused as they are;"
        )
        print(
            f"  with a sticker {wrong.total()} of the {right} become something else"
            + (f": {told}" if told else "")
        )


def strip(rows: list[Tensor], scale: int = 3) -> bytes:
    """Rows of pictures, one below the other."""
    wide = [nn.functional.interpolate(row, scale_factor=scale) for row in rows]
    picture = torch.cat([torch.cat(list(row), 2) for row in wide], 1)
    return png((picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


def main(many: int = 18, epochs: int = 5, passes: int | None = None, shown: int = 8) -> None:
    these = signs()
    net = trained(these, epochs)
    attacked, unseen = chosen(these, many)
    x, y = these.x[attacked], these.y[attacked]

    stages = [
        defenses.MedianSmoothing(3),
        defenses.JpegCompression(50),
        defenses.TotalVariation(0.03, steps=10),
    ]
    behind = hp.Defended(net, stages)
    train = ~these.is_test
    odd = Mahalanobis.fit(behind.look(these.x[train], [LAST]), these.y[train], LAST)
    model = defenses.calibrated(behind, [odd], these.x[unseen], alpha=FALSE_ALARMS)

    table = hp.ablate(
        model, x, y, threat=hp.Patch(area=0.04), budget=hp.Budget(passes=passes), progress=False
    )
    print(f"{len(x)} {these.what} that nothing was trained on, a sticker made for each:")
    print(table)
    print()
    said_of_stops(these, table, [behind.undefended, model], x, y)
    doubts(results_of(table))
    print(f"The detector: {model.alarms[0].guarantee}")

    both = [x[:shown], table.undefended.adversarial[:shown], table.results[-1].adversarial[:shown]]
    Path("sticker.png").write_bytes(strip(both))
    chart("sticker.svg", "Signs read right, with a sticker on 4 % of the picture", bars_of(table))
    print(table.report("sticker.html"))


if __name__ == "__main__":
    main(*(int(given) for given in sys.argv[1:]))
