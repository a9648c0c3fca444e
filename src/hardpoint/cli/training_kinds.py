"""The recipes and changes of a batch that a file of settings can name."""

from __future__ import annotations

from hardpoint.cli.defence_kinds import Kind, number, whole, word

CHANGES = {
    "flip": Kind("Flip"),
    "crop": Kind("Crop", {"pad": whole}),
    "cutout": Kind("Cutout", {"size": whole}),
    "mixup": Kind("Mixup", {"share": number}),
    "jitter": Kind("Jitter", {"sigma": number}),
}

_STEPS = {"steps": whole, "length": number}
RECIPES = {
    "default": Kind("default"),
    "plain": Kind("Plain"),
    "fgsm_rs": Kind("FgsmRs", {"length": number}),
    "n_fgsm": Kind("NFgsm", {"noise": number, "length": number}),
    "free": Kind("Free", {"replays": whole}),
    "atta": Kind("Atta", {**_STEPS, "renew": whole}),
    "pgd": Kind("Pgd", _STEPS),
    "trades": Kind("Trades", {"beta": number, **_STEPS}),
    "mart": Kind("Mart", {"weight": number}),
    "awp": Kind("Awp", {"inner": word, "gamma": number}),
    "mixed": Kind("Mixed", {"inner": word, "clean": number}),
    "noise": Kind("Noise", {"sigma": number}),
}
