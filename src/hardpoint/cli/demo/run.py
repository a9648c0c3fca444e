"""Runs the demonstration and says what it found."""

from __future__ import annotations

import json
import shutil
import time
import webbrowser
from pathlib import Path

import typer

from hardpoint.assess import Result, assess
from hardpoint.cli.demo.digits import EPS, digits_split, trained_digits_network
from hardpoint.cli.demo.tumours import tumour_table
from hardpoint.core.errors import RunError
from hardpoint.data import MemoryDataset
from hardpoint.evidence.store import RunFolder
from hardpoint.models.torch import TorchModel
from hardpoint.report import write_report
from hardpoint.threats import Linf, Threat
from hardpoint.threats.features import FeatureEdits

_DEFAULT = Path("hardpoint-demo")
_GATE = 0.5


def run_demo(out: Path | None = None, open_page: bool = False, json_out: bool = False) -> int:
    """Assess two networks and a table model on embedded data; returns the exit code.

    Args:
        out: the run folder; ``hardpoint-demo`` by default, which an earlier demonstration may fill.
        open_page: whether to open the report in the browser.
        json_out: print one JSON object instead of lines.
    """
    began = time.monotonic()
    folder = out or _DEFAULT
    _clear_earlier_demo(folder)
    results = _assessments(folder, quiet=json_out)
    files = write_report(RunFolder(folder))
    if json_out:
        rates = {r.record.name: r.robust_accuracy.describe() for r in results}
        typer.echo(json.dumps({"run": str(folder), "report": str(files.html), "robust_accuracy": rates}))
    else:
        typer.echo(f"\nReport: {files.html}   ({time.monotonic() - began:.0f} s)")
        typer.echo("Next:   hardpoint init   (then hardpoint assess) for a model of your own")
    if open_page:
        webbrowser.open(files.html.resolve().as_uri())
    return 0


def _clear_earlier_demo(folder: Path) -> None:
    run = RunFolder(folder)
    if run.exists:
        if run.header().get("command") != "hardpoint demo":
            raise RunError(f"{folder} holds a run that is no demonstration", "give another folder with --out")
        shutil.rmtree(folder)


def _assessments(folder: Path, quiet: bool) -> list[Result]:
    results = []
    _, (x, y) = digits_split()
    digits = MemoryDataset(x, y, "sklearn:digits, last 500", classes=[str(d) for d in range(10)])
    for which in ("plain", "hardened"):
        model = TorchModel(trained_digits_network(which), name=f"{which} digits network")
        threat = Threat(Linf(EPS))
        results.append(_assess(model, digits, threat, f"digits-{which}-{threat.name}", folder, quiet))
    table_model, rows, schema = tumour_table()
    for access in ("scores", "labels"):
        threat = Threat(FeatureEdits(schema, eps=0.1, norm="linf"), access=access, queries=500)
        results.append(_assess(table_model, rows, threat, f"tumours-{access}", folder, quiet))
    return results


def _assess(
    model: object, data: MemoryDataset, threat: Threat, name: str, folder: Path, quiet: bool
) -> Result:
    result = assess(
        model,
        data,
        threat=threat,
        run_dir=folder,
        resume=RunFolder(folder).exists,
        name=name,
        gate=_GATE,
        progress=not quiet,
        header={"command": "hardpoint demo"},
    )
    if not quiet:
        record = result.record
        typer.echo(
            f"{record.verdict.word.upper():<5} {record.model['name']:<24} {record.threat['perturbation']['text']}, "
            f"attacker sees {threat.access.word}: {result.robust_accuracy} stand, "
            f"clean {100 * result.clean_accuracy.value:.1f} %"
        )
    return result
