"""``hardpoint assess``: verdicts, exit codes, the run folder, what is printed where."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardpoint.assess import Result, assess
from hardpoint.evidence import Severity, finding
from hardpoint.evidence.store import RunFolder
from hardpoint.report import report_schema

from command_folder import BASIC, Run  # isort: skip

pytest_plugins = ["command_folder"]


def lines(text: str) -> list[str]:
    return text.rstrip("\n").split("\n")


def test_a_gate_that_is_reached_passes(hardpoint: Run, folder: Path) -> None:
    said = hardpoint(*BASIC, "--gate", "0.5")
    verdict, evidence, report, following = lines(said.out)
    assert said.code == 0
    assert verdict.startswith("PASS  linf-0.05-scores-50q  robust ")
    assert verdict.endswith("of 240, clean 90.0 %, gate 50 %, 0 findings")
    assert evidence == "evidence: runs/001-net"
    assert report == "report:   runs/001-net/report.html"
    assert following == "next:     hardpoint report runs/001-net --open"
    assert said.err == ""
    names = {p.name for p in (folder / "runs" / "001-net").iterdir()}
    assert names == {"assessments", "run.json", "report.html", "report.json", "report.sarif", "junit.xml"}


def test_a_gate_that_is_missed_fails(hardpoint: Run) -> None:
    said = hardpoint(*BASIC, "--gate", "0.95")
    assert said.code == 1
    assert said.out.startswith("FAIL  linf-0.05-scores-50q")


def test_without_a_gate_nothing_is_judged(hardpoint: Run) -> None:
    said = hardpoint(*BASIC)
    assert said.code == 0
    assert said.out.startswith("NO GATE  linf")


def test_a_finding_that_voids_the_number_is_inconclusive(
    hardpoint: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    voiding = finding("HP301", "noise broke more", severity=Severity.FAIL)

    def doubtful(*args: Any, **settings: Any) -> Result:
        result = assess(*args, **settings)
        return replace(result, record=replace(result.record, findings=(voiding,)))

    monkeypatch.setattr("hardpoint.cli.job.assess", doubtful)
    said = hardpoint(*BASIC, "--gate", "0.1")
    assert said.code == 5
    assert lines(said.out)[1] == "      HP301: noise broke more"
    assert said.out.startswith("WARN  ")


def test_a_budget_of_passes_that_runs_out_is_inconclusive_but_recorded(hardpoint: Run, folder: Path) -> None:
    words = [*BASIC[:-1], "linf:0.05", "--passes", "9", "--gate", "0.1", "--limit", "60"]
    said = hardpoint(*words)
    assert said.code == 5
    assert "not every input was attacked in full" in said.out
    record = RunFolder(folder / "runs" / "001-net").read()[0]
    assert not record.complete


def test_time_that_runs_out_can_be_resumed(hardpoint: Run, folder: Path) -> None:
    words = [*BASIC[:-1], "linf:0.05", "--threat", "l2:0.1@scores:20q", "--gate", "0.1", "--limit", "60"]
    said = hardpoint(*words, "--seconds", "0.001")
    assert said.code == 5
    assert "NOT RUN  l2-0.1-scores-20q  the time ran out first" in said.out
    following = lines(said.out)[-1]
    assert following.startswith("next:     hardpoint assess --model zoo:net")
    assert following.endswith("--out runs/001-net --resume")
    said = hardpoint(*words, "--resume")
    assert said.code == 0
    assert [a.name for a in RunFolder(folder / "runs" / "001-net").read()] == [
        "linf-0.05",
        "l2-0.1-scores-20q",
    ]


def test_one_run_holds_all_threats_and_the_worst_verdict_counts(hardpoint: Run, folder: Path) -> None:
    said = hardpoint(
        *BASIC[:-1], "linf:0.2@scores:30q:gate=0.99", "--threat", "l2:0.01@scores:20q", "--gate", "0.5"
    )
    assert said.code == 1
    assert [line.split()[0] for line in lines(said.out)[:2]] == ["FAIL", "PASS"]
    run = RunFolder(folder / "runs" / "001-net")
    header = run.header()
    assert header["status"] == "finished"
    assert header["assessments"] == ["linf-0.2-scores-30q", "l2-0.01-scores-20q"]
    assert [a.gate for a in run.read()] == [0.99, 0.5]


def test_the_header_says_how_to_do_it_again(hardpoint: Run, folder: Path) -> None:
    hardpoint(*BASIC, "--seed", "7", "--limit", "50", "--quiet")
    header = RunFolder(folder / "runs" / "001-net").header()
    assert header["command"] == "hardpoint " + " ".join(BASIC) + " --seed 7 --limit 50 --quiet"
    assert header["seed"] == header["settings"]["run.seed"] == 7
    assert set(header["versions"]) >= {"hardpoint", "torch"}
    assert header["settings"]["threats"] == [{"kind": "linf", "eps": 0.05, "access": "scores", "queries": 50}]


def test_run_folders_are_numbered_and_never_written_twice(hardpoint: Run, folder: Path) -> None:
    (folder / "runs" / "007-other").mkdir(parents=True)
    (folder / "runs" / "notes.txt").write_text("mine")
    hardpoint(*BASIC, "--limit", "40")
    hardpoint(*BASIC, "--limit", "40")
    assert sorted(p.name for p in (folder / "runs").iterdir()) == [
        "007-other",
        "008-net",
        "009-net",
        "notes.txt",
    ]


def test_json_is_all_that_stdout_holds(hardpoint: Run) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    said = hardpoint(*BASIC, "--gate", "0.95", "--json")
    value = said.json
    assert (said.code, value["exit_code"], value["verdict"]) == (1, 1, "fail")
    assert value["files"]["html"] == "runs/001-net/report.html"
    assert json.loads(Path(value["files"]["json"]).read_text())["assessments"] == value["assessments"]
    report = {k: v for k, v in value.items() if k not in ("exit_code", "run", "next", "files")}
    jsonschema.validate(report, report_schema())


def test_quiet_leaves_the_verdict_alone(hardpoint: Run) -> None:
    said = hardpoint(*BASIC, "--quiet", "--limit", "40")
    assert len(lines(said.out)) == 1
    assert said.err == ""


def test_only_the_forms_asked_for_are_written(hardpoint: Run, folder: Path) -> None:
    (folder / "hardpoint.toml").write_text('[report]\nformats = ["junit"]\n')
    said = hardpoint(*BASIC, "--limit", "40")
    assert "report:   runs/001-net/junit.xml" in said.out
    assert not (folder / "runs" / "001-net" / "report.html").exists()


def test_resuming_a_finished_run_reads_it_and_judges_it_anew(hardpoint: Run, folder: Path) -> None:
    hardpoint(*BASIC, "--out", "run", "--gate", "0.1")
    files = sorted((folder / "run").rglob("*.npz"))
    before = [p.stat().st_mtime_ns for p in files if "units" in p.parts]
    said = hardpoint(*BASIC, "--out", "run", "--gate", "0.95", "--resume")
    assert (said.code, said.out[:4]) == (1, "FAIL")
    assert [p.stat().st_mtime_ns for p in files if "units" in p.parts] == before
    assert RunFolder("run").read()[0].gate == 0.95


def test_a_threat_can_be_added_to_a_run(hardpoint: Run) -> None:
    hardpoint(*BASIC, "--out", "run")
    said = hardpoint(*BASIC, "--threat", "l2:0.1@scores:20q", "--out", "run", "--resume")
    assert said.code == 0
    assert RunFolder("run").header()["status"] == "finished"
    assert len(RunFolder("run").read()) == 2


def test_an_estimator_is_assessed_with_what_it_shows(hardpoint: Run) -> None:
    pytest.importorskip("sklearn")
    (Path("hardpoint.toml")).write_text(
        '[data]\nload = "sklearn:digits"\nscale = 0.0625\nsample = 60\nseed = 4\n'
    )
    said = hardpoint(
        "assess", "--model", "zoo:digits", "--threat", "linf:0.1", "--queries", "60", "--input-range", "0,1"
    )
    assert said.code in (0, 5)
    assert "linf-0.1-scores" in said.out


def test_a_table_is_attacked_within_its_schema(hardpoint: Run, folder: Path) -> None:
    (folder / "rows.toml").write_text(
        "".join(f'[[feature]]\nname = "{name}"\nlow = 0\nhigh = 1\n' for name in ("a", "b", "c", "d"))
    )
    threat = "features:0.1@schema=rows.toml:norm=linf:scores:40q"
    said = hardpoint(*BASIC[:-1], threat, "--limit", "60")
    assert said.code in (0, 5)
    assert "features-linf-0.1" in said.out
    rows = np.load("data.npz")
    np.savez("wide.npz", x=np.hstack([rows["x"], rows["x"]]), y=rows["y"])
    (folder / "rows.toml").write_text('[[feature]]\nname = "a"\nlow = 0\nhigh = 1\n')
    said = hardpoint(*BASIC[:-1], threat)
    assert (said.code, "the schema has 1 features" in said.err) == (2, True)


def test_a_module_beside_the_configuration_is_found(hardpoint: Run, folder: Path) -> None:
    (folder / "conf").mkdir()
    (folder / "zoo.py").rename(folder / "conf" / "menagerie.py")
    (folder / "conf" / "hardpoint.toml").write_text(
        '[model]\nload = "menagerie:net"\n[data]\nload = "../data.npz"\nlimit = 40\n'
        '[[threats]]\nkind = "l2"\neps = 0.1\nqueries = 20\n[run]\ndir = "../evidence"\n'
    )
    said = hardpoint("assess", "--config", "conf/hardpoint.toml")
    assert said.code == 0, said.err
    assert (folder / "evidence" / "001-net" / "run.json").exists()


def test_models_of_the_attackers_own_give_the_gradients(hardpoint: Run, folder: Path) -> None:
    words = (*BASIC[:-1], "linf:0.2@labels:40q", "--surrogates", "zoo:net,zoo.py:net")
    said = hardpoint(*words)
    assert said.code == 0
    (record,) = RunFolder(folder / "runs" / "001-net").read()
    assert record.stages[0].name.startswith("Transfer")
    assert record.stages[0].broken > 100
    assert (
        "--surrogates zoo:net,zoo.py:net"
        in json.loads((folder / "runs/001-net/run.json").read_text())["command"]
    )


@pytest.mark.parametrize(
    ("surrogates", "message"),
    [
        ("nowhere.onnx", "a surrogate cannot be loaded: nowhere.onnx"),
        ("zoo:digits", "no gradients"),
        ("zoo:nothing", "nothing"),
        ("zoo:wide", "a surrogate takes inputs in"),
    ],
)
def test_a_surrogate_that_cannot_be_used_is_named_before_a_run_begins(
    hardpoint: Run, folder: Path, surrogates: str, message: str
) -> None:
    said = hardpoint(*BASIC, "--surrogates", surrogates)
    assert said.code == 2
    assert message in said.err
    assert not (folder / "runs").exists()


def test_a_run_is_not_resumed_with_other_surrogates(hardpoint: Run, folder: Path) -> None:
    words = (*BASIC[:-1], "linf:0.02", "--passes", "30", "--out", "run")
    assert hardpoint(*words).code == 5  # the budget ran out
    said = hardpoint(*words, "--resume", "--surrogates", "zoo:net")
    assert said.code == 2
    assert "surrogates" in said.err
