"""``[defence]`` in the settings, and ``hardpoint calibrate``."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardpoint import defenses
from hardpoint.cli.defence_kinds import DEFAULT_DETECTORS, DETECTORS, STAGES, count_or_share, flag, words
from hardpoint.cli.defence_text import read_part
from hardpoint.cli.layers import resolve
from hardpoint.core.errors import ConfigError
from hardpoint.defenses import detectors

from command_folder import Run, write_data  # isort: skip

pytest_plugins = ["command_folder"]
pytestmark = pytest.mark.usefixtures("no_panel")

DEEP = """
def deep():
    generator = torch.Generator().manual_seed(2)
    net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), Net())
    with torch.no_grad():
        net[0].weight.copy_(torch.cat([torch.eye(4)] * 4))
        net[0].bias.zero_()
        net[2].layer = nn.Linear(16, 3)
        net[2].layer.weight.copy_(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).repeat(1, 4) / 4)
        net[2].layer.bias.zero_()
    return net.eval()
"""
HEAD = '[model]\nload = "zoo:deep"\n[data]\nload = "data.npz"\n[run]\npasses = 60\n'
THREAT = '[[threats]]\nkind = "linf"\neps = 0.05\n'


@pytest.fixture
def settings(folder: Path) -> Any:
    """Writes ``hardpoint.toml`` with a ``[defence]``."""
    with (folder / "zoo.py").open("a") as file:
        file.write(DEEP)

    def write(defence: str, head: str = HEAD) -> None:
        (folder / "hardpoint.toml").write_text(f"{head}[defence]\n{defence}\n{THREAT}")

    return write


# --- words -----------------------------------------------------------------------------------------------------------


def test_parts_in_one_word() -> None:
    assert dict(read_part("Median:size=2", STAGES, "stage").options) == {"size": 2}
    assert dict(read_part("non-local-means:strength=4/255", STAGES, "stage").options) == {"strength": 4 / 255}
    assert dict(read_part("layer-disagreement:layers=0+3.a", DETECTORS, "detector").options) == {
        "layers": ("0", "3.a")
    }
    assert dict(read_part("mahalanobis:relative=true:layer=x", DETECTORS, "detector").options) == {
        "relative": True,
        "layer": "x",
    }
    assert (count_or_share("3"), count_or_share("0.9"), flag("False"), words("a")) == (3, 0.9, False, ("a",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bitdepth", "stage 'bitdepth': kind 'bitdepth' is unknown; did you mean 'bit-depth'"),
        ("", "kind '' is unknown"),
        ("bit-depth:bit=3", "option 'bit' is unknown; did you mean 'bits'"),
        ("bit-depth:bits", "bits has no value; write bit-depth:bits=VALUE"),
        ("bit-depth:bits=x", "bits is 'x'; give a whole number"),
        ("gaussian:sigma=1/0", "sigma is '1/0'; give a number or a fraction"),
        ("median:size=2:size=3", "says size twice"),
        ("standardise:x=1", "option 'x' is unknown; write standardise alone"),
        ("median:", "option '' is unknown"),
        ("denoiser:file", "file has no value"),
    ],
)
def test_near_misses_are_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_part(text, STAGES, "stage")


def test_every_option_is_one_of_its_class() -> None:
    special = {"feature-squeezing", "reconstruction-error"}
    for module, kinds in ((defenses, STAGES), (detectors, DETECTORS)):
        for word, kind in kinds.items():
            made = getattr(module, kind.name)
            if kind.is_loaded:
                assert set(kind.known) == {"file"}
                assert callable(made.load)
            elif word not in special:
                taken = inspect.signature(made.fit if kind.is_fitted else made).parameters
                assert set(kind.known) <= set(taken), word
    assert set(DEFAULT_DETECTORS) <= set(DETECTORS)


def test_the_file_and_the_environment_say_it(folder: Path) -> None:
    (folder / "conf").mkdir()
    text = '[defence]\nstages = ["median:size=2"]\ndetectors = ["energy"]\nbenign = "b.npz"\n'
    (folder / "conf" / "hardpoint.toml").write_text(text)
    environ = {"HARDPOINT_DEFENCE_STAGES": "bit-depth:bits=3,median", "HARDPOINT_DEFENCE_ALPHA": "0.01"}
    found = resolve({}, Path("conf/hardpoint.toml"), environ)
    assert found.settings.defence.stages == ("bit-depth:bits=3", "median")
    assert found.settings.defence.detectors == ("energy",)
    assert found.settings.defence.alpha == 0.01
    assert found.settings.defence.benign == str(Path("conf/b.npz"))
    assert found.origins["defence.stages"] == "HARDPOINT_DEFENCE_STAGES"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('stage = ["median"]', "has an unknown key 'stage'; did you mean 'stages'"),
        ('stages = ["medain"]', "did you mean 'median'"),
        ('detectors = ["mahalanobs"]', "did you mean 'mahalanobis'"),
        ("alpha = 1.0", "defence.alpha = 1.0; give less than 1"),
        ("held_out = 0", "defence.held_out = 0; give greater than 0"),
    ],
)
def test_wrong_settings_are_named(settings: Any, text: str, message: str) -> None:
    settings(text)
    with pytest.raises(ConfigError, match=message):
        resolve({}, None, {})


# --- assess, doctor, benchmark ------------------------------------------------------------------------------------------


def test_assess_attacks_the_defended_model(hardpoint: Run, settings: Any, folder: Path) -> None:
    settings(
        'stages = ["bit-depth:bits=6"]\ndetectors = ["energy", "mahalanobis", "nearest-neighbours"]\nalpha = 0.2'
    )
    said = hardpoint("assess", "--out", "run")
    assert said.code in (0, 5), said.err
    assert "120 of 240 inputs are held out as benign and not attacked: 60 fit and 60 calibrate" in said.err
    assert " of 120," in said.out
    header = json.loads((folder / "run" / "run.json").read_text())
    assert header["settings"]["defence.alpha"] == 0.2
    told = (folder / "run" / "run.json").read_text() + "".join(
        p.read_text() for p in (folder / "run").rglob("*.json")
    )
    assert "Mahalanobis at 1" in told
    assert "nearest-neighbours" in told
    assert '"BitDepth"' in told
    assert "all but 120 held out as benign" in told
    for more in (("run2", "--quiet"), ("run", "--quiet", "--resume")):  # what is fitted again is the same
        again = hardpoint("assess", "--out", *more)
        assert again.err == ""
        assert again.out.splitlines()[0] == said.out.splitlines()[0]


def test_stages_alone_hold_nothing_out(hardpoint: Run, settings: Any) -> None:
    settings('stages = ["bit-depth:bits=6"]')
    said = hardpoint("assess")
    assert " of 240," in said.out, said.err
    assert "held out" not in said.err


def test_fitted_stages_take_their_part(hardpoint: Run, settings: Any) -> None:
    settings('stages = ["pca:components=3"]\nheld_out = 0.25')
    said = hardpoint("assess")
    assert "60 of 240 inputs are held out as benign and not attacked: 30 fit" in said.err
    assert " of 180," in said.out


def test_benign_inputs_of_their_own_are_read_as_the_data_are(
    hardpoint: Run, settings: Any, folder: Path
) -> None:
    write_data(folder / "more.npz", n=200)
    settings('detectors = ["margin"]\nbenign = "more.npz"\nalpha = 0.1')
    said = hardpoint("assess", "--limit", "60")
    assert "200 benign inputs of more.npz: 200 calibrate" in said.err, said.err
    assert " of 60," in said.out
    settings('detectors = ["margin"]\nbenign = "data.npz"')
    said = hardpoint("assess")
    assert (said.code, "holds the inputs that are attacked" in said.err) == (2, True)
    np.savez("wide.npz", x=np.zeros((50, 5), np.float32), y=np.zeros(50, np.int64))
    settings('detectors = ["margin"]\nbenign = "wide.npz"')
    said = hardpoint("assess")
    assert (said.code, "the benign inputs have shape (5,), the data (4,)" in said.err) == (2, True)


@pytest.mark.parametrize(
    ("defence", "load", "message"),
    [
        ('detectors = ["energy"]\nalpha = 0.01', "zoo:deep", "it needs at least n = 299"),
        ('detectors = ["mahalanobis"]', "zoo:net", "no hidden layer to read features from"),
        ('detectors = ["mahalanobis:layer=lyer"]', "zoo:net", "did you mean 'layer'"),
        ('stages = ["median"]', "zoo:deep", "images"),
        ('stages = ["bit-depth:bits=50"]', "zoo:deep", "bits"),
    ],
)
def test_a_defence_that_does_not_fit_says_why(
    hardpoint: Run, settings: Any, defence: str, load: str, message: str
) -> None:
    settings(defence, HEAD.replace("zoo:deep", load))
    said = hardpoint("assess")
    assert (said.code, message in said.err) == (2, True), said.err


def test_models_without_a_module_have_stages_and_no_detectors(hardpoint: Run, settings: Any) -> None:
    pytest.importorskip("sklearn")
    head = HEAD.replace("zoo:deep", "zoo:digits").replace(
        '"data.npz"', '"sklearn:digits"\nscale = 0.0625\nlimit = 40'
    )
    settings('detectors = ["energy"]', head)
    said = hardpoint("assess")
    assert (said.code, "shows answers only" in said.err) == (2, True), said.err
    settings('stages = ["bit-depth:bits=3"]', head)
    said = hardpoint("doctor")
    assert (said.code, "needs the lowest and the highest value of an input" in said.err) == (2, True)
    settings('stages = ["bit-depth:bits=3:low=0:high=1"]', head)
    said = hardpoint("doctor")
    assert said.code in (0, 1), said.err


def test_doctor_examines_the_defended_model(hardpoint: Run, settings: Any) -> None:
    settings('stages = ["bit-depth:bits=2"]\ndetectors = ["energy"]')
    said = hardpoint("doctor")
    assert "HP110" in said.out or "HP113" in said.out, said.out + said.err
    assert "held out as benign" in said.err


def test_many_models_are_each_defended(hardpoint: Run, folder: Path, settings: Any) -> None:
    text = HEAD.replace('[model]\nload = "zoo:deep"\n', "")
    models = "".join(f'[[models]]\nload = "zoo:{name}"\nname = "{name}"\n' for name in ("net", "deep"))
    (folder / "models.toml").write_text(f'{models}{text}[defence]\ndetectors = ["energy"]\n{THREAT}')
    said = hardpoint("benchmark", "models.toml", "--out", "board")
    assert said.code in (0, 5), said.err
    assert said.err.count("120 of 240 inputs are held out") == 2


# --- calibrate ------------------------------------------------------------------------------------------------------------


def test_calibrate_prints_what_thresholds_do(hardpoint: Run, settings: Any) -> None:
    settings('detectors = ["energy", "margin"]')
    said = hardpoint("calibrate", "--alpha", "0.2,0.1")
    assert said.code in (0, 5), said.err
    lines = said.out.splitlines()
    assert lines[0].startswith("linf-0.05  robust ")
    assert lines[1].split()[:3] == ["detector", "alpha", "threshold"]
    assert [line.split("  ")[0] for line in lines[2:8]] == ["energy"] * 2 + ["margin"] * 2 + [
        "all together"
    ] * 2
    assert "false alarms: 60 benign inputs calibrate, 60 others measure" in said.out
    assert "next:" in said.out


def test_calibrate_speaks_json_and_names_what_it_takes(hardpoint: Run, settings: Any) -> None:
    settings('stages = ["bit-depth:bits=6"]')
    said = hardpoint("calibrate", "--detectors", "energy", "--alpha", "0.1,0.001", "--json", "--quiet")
    assert said.code == said.json["exit_code"] == 5  # one of the shares cannot be enforced
    rows = said.json["thresholds"]["linf-0.05"]["rows"]
    assert [(row["alpha"], row["needed"]) for row in rows] == [(0.1, None), (0.001, 2995)]
    assert said.err == ""


def test_calibrate_has_usual_detectors_and_shares(hardpoint: Run, settings: Any) -> None:
    settings("alpha = 0.2")
    said = hardpoint("calibrate", "--json")
    rows = said.json["thresholds"]["linf-0.05"]["rows"]
    assert [row["alpha"] for row in rows[:4]] == [0.2, 0.1, 0.05, 0.01]
    names = list(dict.fromkeys(row["detector"] for row in rows))
    assert names == ["energy", "Mahalanobis at 1", "nearest neighbours at 1", "all together"]


def test_calibrate_refuses_what_it_cannot_read(hardpoint: Run, settings: Any) -> None:
    settings("")
    for text in ("x", "", "0.1,2"):
        said = hardpoint("calibrate", "--alpha", text)
        assert (said.code, "give shares between 0 and 1" in said.err) == (2, True)
    said = hardpoint("calibrate", "--detectors", "enrgy")
    assert (said.code, "did you mean 'energy'" in said.err) == (2, True)
    assert hardpoint("calibrate", "--help").code == 0
