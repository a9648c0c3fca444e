"""The examples on real pictures run: on a few of these where they are, else on made-up arrays of the same form.

They run in this process and without the checks of an attack's own strength, which take most of so small a run.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"
SIGNS = "images/gtsrb/gtsrb_32x32_subset.npz"
FACES = "images/faces/att_faces_38.npz"
XRAYS = "images/medmnist/pneumoniamnist.npz"
REAL = Path(os.environ.get("HARDPOINT_DATA", ""))
Script = Callable[..., str]


@pytest.fixture
def script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], no_panel: None
) -> Script:
    """Runs an example by name with data in a folder of its own, and gives what it printed."""
    monkeypatch.setenv("HARDPOINT_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    shared = ("_common", "_signs")

    def run(name: str, *given: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *given])
        for module in shared:  # they read the environment when they load
            sys.modules.pop(module, None)
        with torch.random.fork_rng(devices=[]):
            runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        for module in shared:
            sys.modules.pop(module, None)
        return capsys.readouterr().out

    return run


def stored(folder: Path, name: str, arrays: dict[str, np.ndarray]) -> None:
    path = folder / name
    path.parent.mkdir(parents=True)
    np.savez(path, **arrays)


def real(name: str) -> dict[str, np.ndarray] | None:
    if not (REAL / name).is_file():
        return None
    with np.load(REAL / name, allow_pickle=False) as file:
        return {key: file[key] for key in file}


def patterns(y: np.ndarray, shape: tuple[int, ...], noise: float = 25.0) -> np.ndarray:
    """A coarse pattern for each label, and noise."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(40, 215, (int(y.max()) + 1, -(-shape[0] // 8), -(-shape[1] // 8)))
    whole = coarse.repeat(8, 1).repeat(8, 2)[:, : shape[0], : shape[1]]
    return (whole[y] + rng.normal(0, noise, (len(y), *shape))).clip(0, 255).astype(np.uint8)


def bars_in(chart: Path) -> int:
    return len(list(ElementTree.fromstring(chart.read_text()).iter("{http://www.w3.org/2000/svg}path")))


@pytest.mark.slow
def test_stickers_on_signs(script: Script, tmp_path: Path) -> None:
    arrays = real(SIGNS)
    if arrays is not None:
        kinds = np.isin(arrays["y"], (1, 14, 38))
        few = {name: arrays[name][kinds] for name in ("x", "y", "track", "is_test")}
        kept = np.flatnonzero(few["is_test"] | (few["track"] % 3 == 0))
        stored(tmp_path, SIGNS, {name: part[kept] for name, part in few.items()})
    said = script("traffic_signs_under_a_sticker", "4", "2", "20")
    assert ("drawn signs stand in" in said) == (arrays is None)
    assert "all together" in said
    assert "Stop signs, all defences together: of 4" in said
    assert (tmp_path / "sticker.png").read_bytes()[1:4] == b"PNG"
    assert (tmp_path / "sticker.html").exists()
    assert (
        bars_in(tmp_path / "sticker.svg") == 2 + 3 * 5 + 2
    )  # one interval a bar, and the two ends of the scale


@pytest.mark.slow
def test_doors_that_know_faces(script: Script, tmp_path: Path) -> None:
    y = np.arange(38).repeat(10).astype(np.uint8)
    stored(tmp_path, FACES, real(FACES) or {"x": patterns(y, (112, 92)), "y": y})
    said = script("face_verification", "2", "1", "20")
    assert "72 visits to 8 doors" in said  # seven pictures of its owner at each, and two strangers
    assert said.count("stays shut for its owner") == 3
    assert (tmp_path / "faces.html").exists()
    assert bars_in(tmp_path / "faces.svg") == 3 * 2 * 2 + 2


@pytest.mark.slow
def test_chest_xrays(script: Script, tmp_path: Path) -> None:
    arrays = real(XRAYS)
    if arrays is None:
        labels = {part: np.arange(n) % 2 for part, n in (("train", 400), ("val", 200), ("test", 300))}
        arrays = {f"{part}_images": patterns(y, (28, 28), 60.0) for part, y in labels.items()}
        arrays |= {f"{part}_labels": y[:, None].astype(np.uint8) for part, y in labels.items()}
    stored(tmp_path, XRAYS, arrays)
    said = script("chest_xray", "30", "1", "20")
    assert said.count("sensitivity") == 2
    assert said.count("specificity") == 2
    assert "with the validation pictures" in said
    assert (tmp_path / "xray.html").exists()
    assert bars_in(tmp_path / "xray.svg") == 2 * 2 * 2 + 2


@pytest.mark.parametrize("name", ["face_verification", "chest_xray"])
def test_without_data_the_example_says_so(script: Script, tmp_path: Path, name: str) -> None:
    said = script(name)
    assert "There are no" in said
    assert "HARDPOINT_DATA" in said
    assert not list(tmp_path.iterdir())


def test_the_card_survives_what_the_attacker_and_the_filter_may_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from hardpoint.defenses import MedianSmoothing

    monkeypatch.syspath_prepend(str(EXAMPLES))
    names = runpy.run_path(str(EXAMPLES / "face_verification.py"))
    claimed = torch.arange(8)
    held = names["with_card"](torch.rand(8, 1, 56, 46), claimed, 8)
    generator = torch.Generator().manual_seed(0)
    moved = (held + (torch.rand(held.shape, generator=generator) * 2 - 1) * 2 / 255).clamp(0, 1)
    for picture in (held, moved, MedianSmoothing(3).apply(moved)):
        assert torch.equal(names["card_of"](picture, 8), claimed)
