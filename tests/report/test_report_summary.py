from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from report_records import (
    bare_assessment,
    black_box_assessment,
    header,
    hostile_assessment,
    image_assessment,
    labels,
    outcomes,
    series_assessment,
    statuses,
    table_assessment,
)

from hardpoint.core.errors import RunError
from hardpoint.evidence import Assessment, CurvePoint, Rate, RunFolder
from hardpoint.report import report_schema, summary_json, write_report

ALL = [
    image_assessment(),
    black_box_assessment(),
    table_assessment(),
    series_assessment(),
    bare_assessment(),
    hostile_assessment(),
]


def checked(assessments: list[Assessment], head: dict[str, object]) -> dict[str, object]:
    schema = report_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    report = summary_json(assessments, head)
    jsonschema.Draft202012Validator(schema).validate(report)
    return json.loads(json.dumps(report, allow_nan=False))


@pytest.mark.parametrize("assessments", [[], *[[a] for a in ALL], ALL])
def test_the_summary_fits_its_published_schema(assessments: list[Assessment]) -> None:
    assert len(checked(assessments, header())["assessments"]) == len(assessments)  # type: ignore[arg-type]


def test_numbers_json_cannot_hold_are_null() -> None:
    odd = image_assessment(
        metrics={"mcc": float("nan")}, eps_curve=(CurvePoint(float("inf"), Rate.of(0, 4)),)
    )
    report = checked([odd], header(when=Path("x"), bad=float("inf")))
    assessment = report["assessments"][0]  # type: ignore[index]
    assert assessment["metrics"] == {"mcc": None}
    assert assessment["eps_curve"][0]["x"] is None


def test_the_schema_refuses_what_is_wrong() -> None:
    report = summary_json([image_assessment()], header())
    report["assessments"][0]["robust_accuracy"]["value"] = 1.5
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(report, report_schema())
    report = summary_json([image_assessment()], header())
    del report["assessments"][0]["verdict"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(report, report_schema())


def test_the_verdict_counts_and_classes() -> None:
    report = summary_json([image_assessment()], header(assessments=["linf-8of255", "l2"]))
    assert report["verdict"] == "fail"
    assert report["unfinished"] == ["l2"]
    assessment = report["assessments"][0]
    assert sum(assessment["counts"].values()) == 1000
    assert sum(c["robust_accuracy"]["count"] for c in assessment["classes"]) == 529


def written_run(path: Path) -> RunFolder:
    run = RunFolder(path)
    run.begin(header(), resume=False)
    for a in (image_assessment(), table_assessment()):
        run.assessment(a.name).finish(a)
    run.update(status="finished", assessments=["linf-8of255", "l0-2", "l2-9"])
    return run


def test_every_form_is_written_beside_the_run(tmp_path: Path) -> None:
    run = written_run(tmp_path / "run")
    files = write_report(run)
    assert [f.name for f in (files.html, files.json, files.sarif, files.junit)] == [
        "report.html",
        "report.json",
        "report.sarif",
        "junit.xml",
    ]
    assert all(f.parent == run.path for f in (files.html, files.json, files.sarif, files.junit))
    jsonschema.validate(json.loads(files.json.read_text("utf-8")), report_schema())
    assert json.loads(files.sarif.read_text("utf-8"))["version"] == "2.1.0"
    assert "l2-9" in files.html.read_text("utf-8")
    assert "l2-9" in files.junit.read_text("utf-8")
    assert list(run.path.glob(".part-*")) == []


def test_the_report_can_go_elsewhere_and_is_the_same_each_time(tmp_path: Path) -> None:
    run = written_run(tmp_path / "run")
    one = write_report(str(run.path), tmp_path / "a")
    two = write_report(run.path, tmp_path / "b")
    assert one.html.read_bytes() == two.html.read_bytes()
    assert one.sarif.read_bytes() == two.sarif.read_bytes()
    assert not (run.path / "report.html").exists()


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="does not exist"):
        write_report(tmp_path)


def test_outcomes_helper_is_consistent() -> None:
    out = outcomes(statuses(1, 2, 3), labels(6))
    assert int(out.broken.sum()) == 3
