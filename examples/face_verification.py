"""A door that knows a face: can a change nobody sees make it open for a stranger, or stay shut for its owner?

A network turns a face into a direction, and the door opens where the new face's direction is close enough to that of
the owner, enrolled from three pictures. "Close enough" is set so that one stranger in a hundred is let in by mistake
(the false-accept rate). That is what happens when nobody tries. Here somebody tries: they may change every pixel by
two of 256 shades, and have a copy of the network. *Impersonation*: a stranger's picture is changed until the door
opens. *Dodging*: the owner's picture is changed until it does not.

For Hardpoint the door is a model with two answers, shut and open, of one input: the picture, and in a strip above it,
in black and white squares, who the person claims to be, as on a card that is held up. Two shades of 256 cannot change
what the card says. Compared are the door as it is, the door behind a smoothing filter, and the strictest threshold:
none of the strangers in the calibration pictures passes.

Needs the AT&T faces (Olivetti Research Laboratory) as ``att_faces_38.npz`` under ``$HARDPOINT_DATA/images/faces``:
``x`` uint8 [n, 112, 92], ``y``. Twenty-two people train the network, eight others set the threshold, the last eight own
doors. Writes ``faces.svg`` (how often the door is wrong) and ``faces.html`` (the report of the door as it is).

python face_verification.py [STRANGERS_PER_DOOR [EPOCHS [PASSES]]]
"""

from __future__ import annotations

import sys
from itertools import pairwise

import numpy as np
import torch
from _common import chart, data_file, doubts, fit, results_of
from torch import Tensor, nn
from torch.nn import functional

import hardpoint as hp
from hardpoint import defenses

FILE = data_file("images/faces/att_faces_38.npz")
TRAINED, CALIBRATED = 22, 8  # people; the others own doors
ENROLLED = 3  # pictures of each owner
FALSE_ACCEPTS = 0.01
THREAT = hp.Linf(2 / 255)
CARD, SQUARE = 4, 5  # pixels: the height of the strip, and the width of a square


class Direction(nn.Module):
    """A face, ``[n, 1, 56, 46]``, as a point on the unit sphere."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (1, 16, 32, 64, 64)
        blocks = [
            (nn.Conv2d(a, b, 3, stride=2, padding=1), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in pairwise(sizes)
        ]
        self.body = nn.Sequential(*(layer for block in blocks for layer in block), nn.Flatten())
        self.head = nn.Linear(64 * 4 * 3, 64)

    def forward(self, x: Tensor) -> Tensor:
        return functional.normalize(self.head(self.body(x)), dim=1)


class Door(nn.Module):
    """The log-odds that a face is that of the owner whose number is held up: above zero, the door opens."""

    def __init__(self, direction: nn.Module, owners: Tensor, threshold: float) -> None:
        super().__init__()
        self.direction, self.threshold = direction, threshold
        self.register_buffer("owners", owners)

    def forward(self, x: Tensor) -> Tensor:
        claimed = card_of(x, len(self.owners))
        return 16 * ((self.direction(x[:, :, CARD:]) * self.owners[claimed]).sum(1) - self.threshold)


def with_card(x: Tensor, claimed: Tensor, owners: int) -> Tensor:
    """Pictures below a strip of ``owners`` squares, of which the claimed one is white."""
    squares = functional.one_hot(claimed, owners).to(x).repeat_interleave(SQUARE, dim=1)
    strip = x.new_zeros(len(x), 1, CARD, x.shape[3])
    strip[..., : squares.shape[1]] = squares[:, None, None]
    return torch.cat([strip, x], dim=2)


def card_of(x: Tensor, owners: int) -> Tensor:
    """Which square of the strip is white."""
    squares = x[:, 0, :CARD, : owners * SQUARE].reshape(len(x), CARD, owners, SQUARE)
    return squares.mean((1, 3)).argmax(1)


def faces() -> tuple[Tensor, Tensor]:
    """Pictures ``[n, 1, 56, 46]`` in [0, 1], and who they show."""
    with np.load(FILE, allow_pickle=False) as file:
        x = torch.from_numpy(file["x"]).unsqueeze(1).float() / 255
        return functional.avg_pool2d(x, 2), torch.from_numpy(file["y"]).long()


def trained(x: Tensor, y: Tensor, epochs: int) -> nn.Module:
    """A network that tells these people apart by direction, and so, one hopes, other people too."""
    torch.manual_seed(0)
    direction = Direction()

    class Angles(nn.Module):
        """One score per person, from angles alone."""

        def __init__(self) -> None:
            super().__init__()
            self.direction, self.people = direction, nn.Parameter(torch.randn(int(y.max()) + 1, 64))

        def forward(self, x: Tensor) -> Tensor:
            return 16 * self.direction(x) @ functional.normalize(self.people, dim=1).T

    fit(Angles(), x, y, epochs, seen_as=moved)
    return direction.eval()


def moved(x: Tensor) -> Tensor:
    """Heads turn, move, and stand in other light: so do these, at random; half of them are mirrored."""
    n = len(x)
    turn, size = (torch.rand(n) - 0.5) * 0.3, 1 + (torch.rand(n) - 0.5) * 0.2
    mirror = torch.where(torch.rand(n) < 0.5, -1.0, 1.0)
    rows = [
        torch.stack([mirror * size * turn.cos(), -size * turn.sin()], 1),
        torch.stack([mirror * size * turn.sin(), size * turn.cos()], 1),
    ]
    pose = torch.cat([torch.stack(rows, 1), (torch.rand(n, 2, 1) - 0.5) * 0.12], 2)
    grid = functional.affine_grid(pose, list(x.shape), align_corners=False)
    placed = functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
    return (placed * (1 + (torch.rand(n, 1, 1, 1) - 0.5) * 0.4)).clamp(0, 1)


def enrolled(direction: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each person's direction ``[p, 64]`` from their first pictures; then the other pictures' positions and people."""
    people = y.unique()
    rows = [(y == person).nonzero().squeeze(1) for person in people]
    with torch.no_grad():
        owners = torch.stack([direction(x[own[:ENROLLED]]).mean(0) for own in rows])
    probes = torch.cat([own[ENROLLED:] for own in rows])
    return functional.normalize(owners, dim=1), probes, torch.searchsorted(people, y[probes])


def threshold_at(direction: nn.Module, x: Tensor, y: Tensor, false_accepts: float) -> float:
    """The closeness that no more than a share ``false_accepts`` of strangers reaches."""
    owners, probes, who = enrolled(direction, x, y)
    with torch.no_grad():
        near = direction(x[probes]) @ owners.T
    stranger = functional.one_hot(who, len(owners)) == 0
    ordered = near[stranger].sort(descending=True).values
    return float(ordered[int(false_accepts * len(ordered))])


def wrong_doors(y: Tensor, wrong: Tensor) -> dict[str, hp.Rate]:
    """How often the door opens for strangers, and stays shut for its owner."""
    kinds = {"opens for a stranger": y == 0, "stays shut for its owner": y == 1}
    return {word: hp.Rate.of(int(wrong[of].sum()), int(of.sum())) for word, of in kinds.items()}


def main(strangers: int = 14, epochs: int = 60, passes: int | None = None) -> None:
    if not FILE.exists():
        print(f"There are no faces at {FILE}, and none that could stand in for them: set HARDPOINT_DATA.")
        return
    x, y = faces()
    direction = trained(x[y < TRAINED], y[y < TRAINED], epochs)
    between = (y >= TRAINED) & (y < TRAINED + CALIBRATED)
    usual, strict = (threshold_at(direction, x[between], y[between], rate) for rate in (FALSE_ACCEPTS, 0.0))

    owning = y >= TRAINED + CALIBRATED
    x, y = x[owning], y[owning]
    owners, probes, who = enrolled(direction, x, y)
    rows, claims = [], []
    for door in range(len(owners)):
        own, other = (who == door).nonzero().squeeze(1), (who != door).nonzero().squeeze(1)
        some = other[torch.linspace(0, len(other) - 1, strangers).round().long()]
        rows.append(torch.cat([own, some]))
        claims.append(torch.full((len(own) + strangers,), door))
    row, claimed = torch.cat(rows), torch.cat(claims)
    x, y = with_card(x[probes[row]], claimed, len(owners)), (who[row] == claimed).long()

    settings = {"threat": THREAT, "budget": hp.Budget(passes=passes), "progress": False}
    door = Door(direction, owners, usual).eval()
    table = hp.ablate(hp.Defended(door, [defenses.MedianSmoothing(3)]), x, y, **settings)
    stricter = Door(direction, owners, strict).eval()
    result = hp.assess(stricter, x, y, name="strictest threshold", **settings)
    print(f"{len(y)} visits to {len(owners)} doors; a picture may change by {THREAT.describe()['text']}")
    print(table)
    print()

    bars: dict[str, dict[str, hp.Rate]] = {}
    for name, model, judged in (
        ("the door as it is", hp.Defended(door), table.undefended),
        ("behind a filter", hp.Defended(door, [defenses.MedianSmoothing(3)]), table.results[-1]),
        ("strictest threshold", hp.Defended(stricter), result),
    ):
        print(f"{name}:")
        after = wrong_doors(y, judged.broken)
        for word, before in wrong_doors(y, model.predict(x) != y).items():
            print(f"  {word:24} by mistake {before};  under attack {after[word]}")
            bars[f"{name}: {word.split()[0]}"] = {"by mistake": before, "under attack": after[word]}
    doubts({**results_of(table), "strictest threshold": result})
    chart("faces.svg", "How often the door opens for strangers, or stays shut for its owner", bars)
    print(table.report("faces.html"))


if __name__ == "__main__":
    main(*(int(given) for given in sys.argv[1:]))
