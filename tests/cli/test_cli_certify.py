"""``hardpoint certify`` as it is called."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from hardpoint.certify import certify as verb
from hardpoint.certify import property as deciding
from hardpoint.cli.exits import Exit
from hardpoint.evidence import RunFolder, Standing
from hardpoint.report import report_schema

from command_folder import Run  # isort: skip
from onnx_nets import linear_net, relu_net, written  # isort: skip

pytest_plugins = ["command_folder"]
BASIC = ("certify", "--model", "zoo:net", "--data", "data.npz", "--threat", "linf:0.05", "--limit", "40")
UNIT = "(assert (>= X_0 -1))(assert (<= X_0 1))(assert (>= X_1 -1))(assert (<= X_1 1))"


def test_it_says_what_is_proven_and_keeps_it(hardpoint: Run, folder: Path) -> None:
    said = hardpoint(*BASIC, "--threat", "l2:0.1", "--out", "run")
    assert said.code == Exit.PASS, said.err
    lines = said.out.splitlines()
    assert lines[0].startswith("NO GATE  linf-0.05  proven ")
    assert lines[1].startswith("NO GATE  l2-0.1  proven ")
    assert lines[-1] == "next:     hardpoint report run --open"
    run = RunFolder(folder / "run")
    assert [record.name for record in run.certificates()] == ["linf-0.05", "l2-0.1"]
    assert run.header()["status"] == "finished"
    for record in run.certificates():
        kept = run.witnesses(record.name)
        assert len(kept["index"]) == len(kept["point"]) == record.count(Standing.VULNERABLE)
    page = (folder / "run" / "report.html").read_text()
    assert "What this does not say" in page
    assert "Nothing was assessed" not in page
    again = hardpoint("report", "run", "--json")
    assert again.code == Exit.PASS
    assert set(again.json["files"]) == {"html", "json", "sarif", "junit"}
    report = json.loads((folder / "run" / "report.json").read_text())
    jsonschema.validate(report, report_schema())
    assert [c["name"] for c in report["certificates"]] == ["linf-0.05", "l2-0.1"]


def test_json_is_one_object(hardpoint: Run) -> None:
    said = hardpoint(*BASIC, "--json", "-q", "--soundness", "deployed", "--method", "alpha")
    assert said.code == Exit.PASS
    (proofs,) = said.json["certificates"]
    assert (proofs["level"], proofs["method"]) == ("deployed", "alpha")
    assert proofs["certified"]["n"] == 40
    assert said.json["exit_code"] == 0
    assert said.json["run"].startswith("runs/001-certify-")


@pytest.mark.parametrize(
    ("gate", "code", "word"), [("0.3", Exit.PASS, "PASS"), ("0.99", Exit.GATE_FAILED, "FAIL")]
)
def test_the_gate_is_on_the_proven_share(hardpoint: Run, gate: str, code: int, word: str) -> None:
    said = hardpoint(*BASIC, "--gate", gate, "--out", "run")
    assert said.code == code
    assert said.out.startswith(word)
    junit = Path("run/junit.xml").read_text()
    assert ("<failure" in junit) == (code != Exit.PASS)
    assert bool(json.loads(Path("run/report.sarif").read_text())["runs"][0]["results"]) == (code != Exit.PASS)


def test_a_gate_that_what_is_unknown_could_reach_is_inconclusive(hardpoint: Run, folder: Path) -> None:
    draw = np.random.default_rng(0)
    np.savez(folder / "wide.npz", x=draw.random((20, 30), dtype=np.float32), y=np.zeros(20, dtype=np.int64))
    (folder / "deep.py").write_text(
        "import torch\nfrom torch import nn\n\n\ndef make():\n    net = nn.Sequential(nn.Linear(30, 60), nn.ReLU(), "
        "nn.Linear(60, 60), nn.ReLU(), nn.Linear(60, 2))\n    with torch.no_grad():\n        net[-1].bias[0] += 0.6\n"
        "    return net\n"
    )
    words = ["certify", "--model", "deep.py:make", "--data", "wide.npz", "--threat", "linf:0.1"]
    said = hardpoint(*words, "--method", "interval", "--gate", "0.9")
    assert said.code == Exit.INCONCLUSIVE, said
    assert said.out.startswith("WARN")
    assert "unknown:" in said.out


def test_settings_come_from_the_file(hardpoint: Run, folder: Path) -> None:
    (folder / "hardpoint.toml").write_text(
        '[model]\nload = "zoo:net"\n[data]\nload = "data.npz"\nlimit = 8\n[certify]\nmethod = "crown"\n'
        'soundness = "rigorous"\nseconds_per_input = 2\n[[threats]]\nkind = "l1"\neps = 0.1\ngate = 0.1\n'
    )
    said = hardpoint("certify", "--json")
    assert said.code == Exit.PASS, said.err
    (proofs,) = said.json["certificates"]
    assert (proofs["method"], proofs["level"], proofs["seconds_per_input"]) == ("crown", "rigorous", 2.0)
    assert proofs["gate"] == 0.1
    (folder / "hardpoint.toml").write_text("[certify]\nsoundness = 'very'\n")
    assert "certify.soundness = 'very'" in hardpoint(*BASIC).err


def test_a_run_that_was_interrupted_goes_on(
    hardpoint: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    met, seen = verb._met, []

    def interrupted(plan, batch):  # type: ignore[no-untyped-def]
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(1)
        return met(plan, batch)

    words = [*BASIC, "--batch-size", "16"]
    whole = hardpoint(*words, "--out", "whole")
    monkeypatch.setattr(verb, "_met", interrupted)
    said = hardpoint(*words)
    assert said.code == Exit.INTERRUPTED
    assert "--resume" in said.err
    (run,) = (folder / "runs").iterdir()
    told = hardpoint("report", str(run))
    assert told.code == Exit.NOTHING_TO_TEST
    assert "no finished certificate" in told.err
    monkeypatch.setattr(verb, "_met", lambda plan, batch: seen.append(2) or met(plan, batch))
    said = hardpoint(*words, "--resume")
    assert said.code == Exit.PASS, said.err
    assert seen.count(2) == 1
    assert said.out.splitlines()[0] == whole.out.splitlines()[0]


def test_proofs_stand_beside_an_assessment(hardpoint: Run, folder: Path) -> None:
    common = ["--model", "zoo:net", "--data", "data.npz", "--threat", "linf:0.05@scores:50q", "--limit", "20"]
    assert hardpoint("assess", *common, "--out", "run").code in (Exit.PASS, Exit.INCONCLUSIVE)
    assert hardpoint("certify", *common, "--out", "run").code == Exit.USAGE  # a run is there already
    said = hardpoint("certify", *common, "--out", "run", "--resume")
    assert said.code == Exit.PASS, said.err
    page = (folder / "run" / "report.html").read_text()
    assert "certified accuracy" in page
    assert "robust accuracy" in page
    assert RunFolder(folder / "run").header()["status"] == "finished"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*BASIC, "--threat", "linf:0.05@scores"], "given twice"),
        ([*BASIC, "--threat", "l0:1"], "say nothing about"),
        ([*BASIC, "--threat", "l2:1@to=1"], "targeted"),
        ([*BASIC, "--soundness", "very"], "certify.soundness"),
        ([*BASIC, "--method", "magic"], "certify.method"),
        ([*BASIC, "--seconds-per-input", "0"], "seconds_per_input"),
        (["certify", "--model", "zoo:net", "--data", "data.npz"], "no threat is given"),
        (["certify", "--onnx", "net.onnx"], "--vnnlib is missing"),
        (["certify", "--vnnlib", "net.vnnlib"], "--onnx is missing"),
        (
            ["certify", "--onnx", "n.onnx", "--vnnlib", "p.vnnlib", "--model", "zoo:net"],
            "--model does not go with",
        ),
        (["certify", "--onnx", "n.onnx", "--vnnlib", "p.vnnlib", "--out", "run"], "--out does not go with"),
        ([*BASIC, "--model", "zoo:digits"], "is no network"),
    ],
)
def test_what_cannot_be_done_is_said(hardpoint: Run, folder: Path, words: list[str], said: str) -> None:
    told = hardpoint(*words)
    assert told.code == Exit.USAGE
    assert said in told.err
    assert told.out == ""
    assert not (folder / "runs").exists()


def property_words(folder: Path, said: str, *more: str) -> list[str]:
    wanted = written(folder, 2, 2, UNIT + said)
    return ["certify", "--onnx", str(linear_net(folder)), "--vnnlib", str(wanted), *more]


def test_a_property_is_answered_in_a_word(hardpoint: Run, folder: Path) -> None:
    said = hardpoint(*property_words(folder, "(assert (>= Y_0 3.1))", "--soundness", "rigorous"))
    assert (said.code, said.out) == (Exit.PASS, "unsat\n")
    said = hardpoint(*property_words(folder, "(assert (>= Y_0 2.9))"))
    assert said.code == Exit.GATE_FAILED
    first, *witness = said.out.splitlines()
    assert first == "sat"
    numbers = {line.strip(" ()").split()[0]: float(line.strip(" ()").split()[1]) for line in witness}
    assert list(numbers) == ["X_0", "X_1", "Y_0", "Y_1"]
    assert numbers["X_0"] + 2 * numbers["X_1"] == pytest.approx(numbers["Y_0"], abs=1e-5)
    assert numbers["Y_0"] >= 2.9
    told = hardpoint(*property_words(folder, "(assert (>= Y_0 2.9))", "--json")).json
    assert (told["answer"], told["exit_code"]) == ("sat", 1)
    assert len(told["witness"]["x"]) == len(told["witness"]["y"]) == 2
    assert not (folder / "runs").exists()


def test_too_little_time_is_unknown(hardpoint: Run, folder: Path) -> None:
    onnx = relu_net(folder, inputs=30, hidden=60)
    box = "".join(f"(assert (>= X_{i} -1))(assert (<= X_{i} 1))" for i in range(30))
    wanted = written(folder, 30, 2, box + "(assert (>= Y_0 30))")
    words = ["certify", "--onnx", str(onnx), "--vnnlib", str(wanted), "--seconds-per-input", "0.0001"]
    said = hardpoint(*words)
    assert (said.code, said.out) == (Exit.INCONCLUSIVE, "unknown\n")
    assert said.err.startswith("best bound")
    assert hardpoint(*words, "--json").json["answer"] == "unknown"


@pytest.mark.parametrize("stage", ["broken", "crown_spans", "settled", "holds"])
def test_an_error_is_never_an_answer(
    hardpoint: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("a stage failed")

    monkeypatch.setattr(deciding, stage, fails)
    said = hardpoint(*property_words(folder, "(assert (>= Y_0 3.1))"))
    assert (said.code, said.out) == (Exit.INTERNAL, "")
    assert "a stage failed" in said.err
    monkeypatch.undo()
    (folder / "property.vnnlib").write_text("(assert (>= X_0")
    said = hardpoint("certify", "--onnx", "linear.onnx", "--vnnlib", "property.vnnlib")
    assert (said.code, said.out) == (Exit.USAGE, "")
