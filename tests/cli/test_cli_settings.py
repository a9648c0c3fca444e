"""Settings: layers and their precedence, unknown keys, threats in one word."""

from __future__ import annotations

import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardpoint.cli.build import _perturbation
from hardpoint.cli.config import SECTIONS, ThreatSettings, keys_of, read_eps
from hardpoint.cli.layers import Entry, Layer, resolve
from hardpoint.cli.said import _KEYS, said_values
from hardpoint.cli.threat_kinds import KINDS
from hardpoint.cli.threat_text import read_threat
from hardpoint.core.errors import ConfigError

FULL = """
[model]
load = "net.onnx"
input_range = [0, 1]
[data]
load = "data.npz"
sample = 20
seed = 3
[[threats]]
kind = "linf"
eps = "8/255"
gate = 0.3
[[threats]]
kind = "features"
schema = "rows.toml"
norm = "l0"
eps = 2
access = "scores"
[run]
mode = "standard"
[gate]
robust_accuracy = 0.45
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(**values: Any) -> Layer:
    return {key.replace("__", "."): Entry(value, "--option") for key, value in values.items()}


def test_a_file_says_everything(here: Path) -> None:
    (here / "hardpoint.toml").write_text(FULL)
    settings = resolve({}, None, {}).settings
    assert settings.model.load == "net.onnx"
    assert settings.model.input_range == (0.0, 1.0)
    assert settings.data.sample == 20
    assert settings.threats[0].eps == 8 / 255
    assert settings.threats[1].schema_file == "rows.toml"
    assert settings.gate.robust_accuracy == 0.45


def test_the_command_line_wins_over_the_environment_over_the_file_over_the_default(here: Path) -> None:
    (here / "hardpoint.toml").write_text("[run]\nmode = 'standard'\nseed = 1\nworkers = 2\n")
    environ = {"HARDPOINT_RUN_SEED": "2", "HARDPOINT_RUN_WORKERS": "3"}
    found = resolve(said(run__workers="4"), None, environ)
    run = found.settings.run
    assert (run.passes, run.mode, run.seed, run.workers) == (None, "standard", 2, 4)
    origins = [found.origins[f"run.{key}"] for key in ("passes", "mode", "seed", "workers")]
    assert origins == ["default", "hardpoint.toml", "HARDPOINT_RUN_SEED", "--option"]


def test_pyproject_counts_where_there_is_no_file_of_its_own(here: Path) -> None:
    (here / "pyproject.toml").write_text("[tool.hardpoint.run]\nseed = 5\n")
    found = resolve({}, None, {})
    assert found.settings.run.seed == 5
    assert found.origins["run.seed"] == "pyproject.toml [tool.hardpoint]"
    (here / "hardpoint.toml").write_text("[run]\nseed = 6\n")
    assert resolve({}, None, {}).settings.run.seed == 6


def test_a_pyproject_of_something_else_is_no_configuration(here: Path) -> None:
    (here / "pyproject.toml").write_text("[tool.other]\nx = 1\n")
    assert resolve({}, None, {}).file is None
    with pytest.raises(ConfigError, match=r"has no \[tool.hardpoint\]"):
        resolve({}, Path("pyproject.toml"), {})


def test_paths_are_relative_to_the_file_they_stand_in(here: Path) -> None:
    (here / "conf").mkdir()
    (here / "conf" / "hardpoint.toml").write_text(FULL.replace("[run]", "[run]\ndir = 'evidence'"))
    settings = resolve({}, Path("conf/hardpoint.toml"), {}).settings
    assert settings.model.load == str(Path("conf/net.onnx"))
    assert settings.data.load == str(Path("conf/data.npz"))
    assert settings.threats[1].schema_file == str(Path("conf/rows.toml"))
    assert settings.run.dir == str(Path("conf/evidence"))
    given_here = resolve(said(model__load="net.onnx"), Path("conf/hardpoint.toml"), {}).settings
    assert given_here.model.load == "net.onnx"


@pytest.mark.parametrize(
    "written", ["'a.onnx, shop.model:load, b.py:make'", "['a.onnx', 'shop.model:load', 'b.py:make']"]
)
def test_each_of_several_paths_is(here: Path, written: str) -> None:
    (here / "conf").mkdir()
    (here / "conf" / "hardpoint.toml").write_text(
        f"[model]\nload = 'c.py:make'\n[run]\nsurrogates = {written}\n"
    )
    found = resolve({}, Path("conf/hardpoint.toml"), {}).settings
    assert found.model.load == str(Path("conf/c.py:make"))
    assert found.run.surrogates == (str(Path("conf/a.onnx")), "shop.model:load", str(Path("conf/b.py:make")))


@pytest.mark.parametrize("load", ["shop.model:load", "https://host/predict", "http://localhost:80/v1"])
def test_what_is_no_path_stays_as_it_is(here: Path, load: str) -> None:
    (here / "conf").mkdir()
    (here / "conf" / "hardpoint.toml").write_text(
        f"[model]\nload = '{load}'\n[data]\nload = 'sklearn:digits'\n"
    )
    settings = resolve({}, Path("conf/hardpoint.toml"), {}).settings
    assert (settings.model.load, settings.data.load) == (load, "sklearn:digits")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[rnu]\nmode = 'fast'", r"hardpoint.toml: it has an unknown key 'rnu'; did you mean 'run'\?"),
        ("[run]\nmoed = 'fast'", r"hardpoint.toml: \[run\] has an unknown key 'moed'; did you mean 'mode'\?"),
        (
            "[[threats]]\nkind='l2'\nepsilon=1",
            r"threats\[0\] has an unknown key 'epsilon'; did you mean 'eps'",
        ),
        ("[run]\nmode = 'fats'", r"hardpoint.toml: run.mode = 'fats'; give 'fast', 'standard' or 'thorough'"),
        ("[run]\nworkers = 0", r"run.workers = 0; give greater than or equal to 1"),
        ("[gate]\nrobust_accuracy = 45", r"gate.robust_accuracy = 45; give less than or equal to 1"),
        ("[model]\ninput_range = [1, 0]", r"model.input_range = \[1, 0\]; give low < high"),
        ("[[threats]]\nkind='l2'", r"threats\[0\]; give eps, for example"),
        ("[[threats]]\nkind='l2'\neps='1/0'", r"threats\[0\].eps = '1/0'; give a number or a fraction"),
        ("[[threats]]\nkind='features'\neps=1", r"threats\[0\]; give schema"),
        ("[[threats]]\nkind='l2'\neps=1\nqueries=9\naccess='gradients'", r"give queries with access"),
        ("[report]\nformats = ['pdf']", r"report.formats = \['pdf'\]"),
        ("model = 3", r"model is not a table"),
        ("threats = 3", r"threats is no list of tables"),
        ("[run\n", r"hardpoint.toml is not valid TOML: .*line 1"),
    ],
)
def test_what_is_wrong_is_named_with_its_place_and_cure(here: Path, text: str, message: str) -> None:
    (here / "hardpoint.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        resolve({}, None, {})


def test_variables_are_checked_like_keys(here: Path) -> None:
    with pytest.raises(ConfigError, match=r"HARDPOINT_RUN_MOED: .*did you mean 'mode'"):
        resolve({}, None, {"HARDPOINT_RUN_MOED": "fast"})
    with pytest.raises(ConfigError, match=r"HARDPOINT_RUN_SEED: run.seed = 'x'"):
        resolve({}, None, {"HARDPOINT_RUN_SEED": "x"})
    with pytest.raises(ConfigError, match="is no TOML value"):
        resolve({}, None, {"HARDPOINT_DATA_KEYS": "["})
    environ = {
        "HARDPOINT_THREATS": "linf:0.1 l2:0.5@scores:10q",
        "HARDPOINT_MODEL_INPUT_RANGE": "[-1, 1]",
        "HARDPOINT_REPORT_FORMATS": "json,html",
        "HARDPOINT_DEBUG": "1",
        "HARDPOINT_PORT_80_TCP": "not ours",
        "OTHER_RUN_SEED": "x",
    }
    settings = resolve({}, None, environ).settings
    assert [t.kind for t in settings.threats] == ["linf", "l2"]
    assert settings.model.input_range == (-1.0, 1.0)
    assert settings.report.formats == ("json", "html")


def test_the_missing_file_is_named(here: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.toml does not exist; write one with: hardpoint init"):
        resolve({}, Path("none.toml"), {})


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("linf:8/255", {"kind": "linf", "eps": "8/255"}),
        ("L2:.5", {"kind": "l2", "eps": ".5"}),
        ("l0:3@labels", {"kind": "l0", "eps": "3", "access": "labels"}),
        (
            "l1:12@1000q:to=3:gate=0.4",
            {"kind": "l1", "eps": "12", "queries": "1000", "target": "3", "gate": "0.4"},
        ),
        (
            "features:0.3@schema=a/b.toml:norm=l2:max=4",
            {"kind": "features", "eps": "0.3", "schema_file": "a/b.toml", "norm": "l2", "max_changed": "4"},
        ),
        ("patch:0.02@labels", {"kind": "patch", "eps": "0.02", "access": "labels"}),
        ("spatial:30@translation=0.1", {"kind": "spatial", "eps": "30", "translation": "0.1"}),
        ("flow:1/2@spacing=2", {"kind": "flow", "eps": "1/2", "spacing": "2"}),
        ("colour@hue=30:contrast=0.2", {"kind": "colour", "hue": "30", "contrast": "0.2"}),
        ("snr:30", {"kind": "snr", "eps": "30"}),
        ("perceptual:3", {"kind": "perceptual", "eps": "3"}),
    ],
)
def test_threats_in_one_word(here: Path, text: str, entries: dict[str, Any]) -> None:
    read = read_threat(text)
    assert {("schema_file" if k == "schema" else k): v for k, v in read.items()} == entries
    settings = resolve({"threats": Entry([read], "--threat")}, None, {}).settings
    assert settings.threats[0].kind == entries["kind"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "kind '' is unknown"),
        ("linfty:1", "did you mean 'linf'"),
        ("linf:", "ends too soon"),
        ("linf:1@", "ends too soon"),
        ("linf:1@score", "did you mean 'scores'"),
        ("linf:1@scores:labels", "says access twice"),
        ("linf:1@to=", "option 'to=' is unknown"),
        ("linf:1@10", "option '10' is unknown"),
    ],
)
def test_bad_threats_name_the_part(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_threat(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patch", "eps, for example"),
        ("colour", "a limit for colour"),
        ("linf:0.1@hue=3", "hue with kind = 'colour' only"),
        ("patch:0.02@schema=a.toml", "kind = 'features' only"),
        ("colour@contrast=7", "contrast"),
    ],
)
def test_threats_that_do_not_fit_their_kind_are_refused(here: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve({"threats": Entry([read_threat(text)], "--threat")}, None, {})


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "colour"])
def test_every_kind_can_be_made(kind: str) -> None:
    said = ThreatSettings.model_validate({"kind": kind, "eps": KINDS[kind].example})
    made = _perturbation(said)
    assert made.describe()["kind"] == KINDS[kind].name


@given(st.text(max_size=30))
def test_any_text_is_a_threat_or_a_clear_error(text: str) -> None:
    with suppress(ConfigError):
        assert read_threat(text)["kind"] in (*KINDS, "features")


@given(st.integers(0, 255), st.integers(1, 255))
def test_fractions_are_what_python_makes_of_them(over: int, under: int) -> None:
    assert read_eps(f"{over}/{under}") == over / under
    assert read_eps(str(over)) == over


def test_every_key_can_be_written_in_a_file() -> None:
    for table in SECTIONS.values():
        for key in keys_of(table):
            assert key in tomllib.loads(f"{key} = 1")


def test_every_option_belongs_to_a_key_that_there_is() -> None:
    known = {f"{section}.{key}" for section, table in SECTIONS.items() for key in keys_of(table)}
    assert set(_KEYS.values()) <= known
    assert said_values("harden", batch_size="8") == {"harden.batch_size": ("8", "--batch-size")}
    assert said_values(MODEL="net.onnx") == {"model.load": ("net.onnx", "MODEL")}
