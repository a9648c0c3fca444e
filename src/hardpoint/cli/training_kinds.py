"""The changes of a batch that a file of settings can name."""

from __future__ import annotations

from hardpoint.cli.defence_kinds import Kind, number, whole

CHANGES = {
    "flip": Kind("Flip"),
    "crop": Kind("Crop", {"pad": whole}),
    "cutout": Kind("Cutout", {"size": whole}),
    "mixup": Kind("Mixup", {"share": number}),
    "jitter": Kind("Jitter", {"sigma": number}),
}
