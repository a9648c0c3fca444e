"""``doctor``, ``report``, ``config show``, help, and the process itself."""

from __future__ import annotations

import json
import subprocess
import sys
import webbrowser
from pathlib import Path

import numpy as np
import pytest

from hardpoint import __version__

from command_folder import BASIC, Run  # isort: skip

pytest_plugins = ["command_folder"]

# --- doctor --------------------------------------------------------------------------------------------------------


def test_doctor_passes_a_sound_model(hardpoint: Run) -> None:
    said = hardpoint("doctor", "zoo:net", "--data", "data.npz")
    assert said.code == 0
    assert said.out.startswith("PASS  Net  0 findings, 0 that void a number")


def test_doctor_names_what_fails_first_with_its_cure(hardpoint: Run) -> None:
    np.savez("few.npz", x=np.full((9, 4), 0.5, np.float32), y=np.zeros(9, np.int64))
    said = hardpoint("doctor", "zoo:training", "--data", "few.npz")
    assert said.code == 1
    assert said.out.startswith("FAIL     HP101  A layer is in training mode: layer '0'")
    assert "cure: call model.eval()" in said.out
    assert said.out.index("HP101") < said.out.index("HP403")
    assert "FAIL  Sequential  2 findings, 1 that void a number" in said.out
    assert hardpoint("doctor", "zoo:overflows", "--data", "data.npz").code == 1


def test_doctor_speaks_json(hardpoint: Run) -> None:
    said = hardpoint("doctor", "zoo:training", "--data", "data.npz", "--json")
    assert said.json["exit_code"] == said.code == 1
    assert said.json["findings"][0]["id"] == "HP101"


def test_doctor_reads_the_configuration(hardpoint: Run, folder: Path) -> None:
    (folder / "hardpoint.toml").write_text('[model]\nload = "zoo:net"\n[data]\nload = "data.npz"\n')
    assert hardpoint("doctor").code == 0
    said = hardpoint("doctor", "zoo:net", "--data", "gone.npz")
    assert (said.code, "gone.npz does not exist" in said.err) == (2, True)


# --- report --------------------------------------------------------------------------------------------------------


def test_report_rebuilds_the_page(hardpoint: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    hardpoint(*BASIC, "--out", "run", "--limit", "60")
    page = folder / "run" / "report.html"
    before = page.read_bytes()
    page.unlink()
    said = hardpoint("report", "run", "--open")
    assert said.code == 0
    assert page.read_bytes() == before
    assert opened == [page.as_uri()]
    assert hardpoint("report", "run", "--out", "page.html", "--quiet").out == "report:   page.html\n"
    assert Path("page.html").read_bytes() == before
    assert hardpoint("report", "run", "--out", "r.sarif", "--json").json["files"] == {"sarif": "r.sarif"}
    assert json.loads(Path("r.sarif").read_text())["version"] == "2.1.0"


def test_two_runs_are_compared(hardpoint: Run, folder: Path) -> None:
    hardpoint(*BASIC, "--out", "a", "--limit", "60")
    hardpoint(*BASIC, "--out", "b", "--limit", "60", "--seed", "1")
    said = hardpoint("report", "a", "--compare", "b")
    assert said.code == 0
    assert "report:   b/compare-a.html" in said.out
    assert (folder / "b" / "compare-a.html").read_text().startswith("<!")
    hardpoint(*BASIC[:-1], "l2:0.1@scores:10q", "--out", "c", "--limit", "40")
    said = hardpoint("report", "a", "--compare", "c")
    assert (said.code, "share no finished threat" in said.err) == (3, True)


def test_a_damaged_run_is_named(hardpoint: Run, folder: Path) -> None:
    hardpoint(*BASIC, "--out", "run", "--limit", "40")
    [outcomes] = (folder / "run").rglob("outcomes.npz")
    outcomes.write_bytes(b"PK")
    said = hardpoint("report", "run")
    assert (said.code, "outcomes.npz" in said.err) == (2, True)


def test_a_run_without_results_has_no_report(hardpoint: Run, folder: Path) -> None:
    hardpoint(*BASIC, "--out", "run", "--limit", "40")
    next((folder / "run").rglob("assessment.json")).unlink()
    said = hardpoint("report", "run")
    assert (said.code, "no finished assessment" in said.err) == (3, True)


# --- config, demo, help --------------------------------------------------------------------------------------------


def test_config_shows_where_values_come_from(
    hardpoint: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "hardpoint.toml").write_text('[run]\nseed = 3\n[http]\nheaders = { K = "secret" }\n')
    monkeypatch.setenv("HARDPOINT_RUN_MODE", "standard")
    said = hardpoint("config", "show", "--origin")
    words = {line.split(" = ")[0].strip(): line.split(" = ", 1)[1] for line in said.out.splitlines()}
    assert words["run.seed"] == "3    # hardpoint.toml"
    assert words["run.mode"] == "standard    # HARDPOINT_RUN_MODE"
    assert words["run.dir"] == "runs    # default"
    assert "secret" not in said.out
    shown = hardpoint("config", "show", "--json").json["settings"]
    assert shown["run.seed"] == {"value": 3, "origin": "hardpoint.toml"}


def test_demo_hands_over(hardpoint: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    import hardpoint.cli.demo as demo

    called: list[object] = []
    monkeypatch.setattr(demo, "run_demo", lambda *args: called.extend(args) or 5)
    assert hardpoint("demo", "--out", "d", "--json").code == 5
    assert called == [Path("d"), False, True]


def test_help_and_version(hardpoint: Run) -> None:
    assert hardpoint("--version").out == f"hardpoint {__version__}\n"
    assert "Exit codes: 0 pass" in hardpoint("--help").out
    for command in ("assess", "doctor", "calibrate", "init", "report", "demo"):
        said = hardpoint(command, "--help")
        assert (said.code, "--json" in said.out) == (0, True)
    assert hardpoint().code == 2


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from hardpoint.cli.main import main; main(['--help']);"
        "heavy = {'torch', 'numpy', 'pydantic', 'rich', 'jinja2', 'scipy'} & set(sys.modules);"
        "main(['assess', '--help']); heavy |= {'torch', 'numpy', 'scipy'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_goes_away_changes_no_verdict(folder: Path) -> None:
    words = [*BASIC, "--gate", "0.99", "--limit", "40"]
    process = subprocess.Popen(
        [sys.executable, "-m", "hardpoint", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    told = process.stderr.read()
    assert process.wait() == 1
    assert told == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_result_that_cannot_be_written_is_an_error(folder: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "hardpoint", "--version"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 2
    assert b"cannot write the result: No space left" in done.stderr
