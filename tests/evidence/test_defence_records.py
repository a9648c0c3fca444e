"""Records of defences: back as they went, whole or refused with a reason."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from hardpoint.core.errors import RunError
from hardpoint.evidence import (
    DefenceRecord,
    PartKind,
    PartRecord,
    Rate,
    RunFolder,
    StackPart,
    ThresholdRecord,
    Worth,
)

STAGES = PartRecord(
    "all stages",
    PartKind.STACK,
    None,
    clean=Rate.of(9, 10),
    refused=None,
    naive=Rate.of(7, 10),
    adaptive=Rate.of(4, 10),
    won=1,
    lost=1,
    worth=Worth.HIDES,
    added_ms=0.5,
    assessment="linf-0.1-1-all-stages",
)
BEHIND = replace(
    STAGES,
    name="energy",
    kind=PartKind.DETECTOR,
    against="all stages",
    refused=Rate.of(1, 10),
    added_ms=None,
    doubts=("cut short",),
)
DEFENCE = DefenceRecord(
    (
        StackPart("BitDepth", PartKind.STAGE, "straight-through"),
        StackPart("net", PartKind.NETWORK, "autograd"),
        StackPart("energy", PartKind.DETECTOR, "autograd", "few false alarms"),
    ),
    {"name": "linf-0.1"},
    Rate.of(10, 10),
    Rate.of(5, 10),
    (STAGES, BEHIND),
    assessment="linf-0.1-0-undefended",
)
THRESHOLDS = (
    ThresholdRecord("energy", 0.1, 1.5, "few", Rate.of(1, 10), Rate.of(3, 4), Rate.of(1, 4), 0.1),
    ThresholdRecord("energy", 0.01, None, "none", None, None, None, None, needed=299),
)


@pytest.mark.parametrize(
    "record",
    [DEFENCE, replace(DEFENCE, parts=()), replace(DEFENCE, thresholds=THRESHOLDS, doubts=("cut short",))],
)
def test_a_defence_comes_back_as_it_went(tmp_path, record):
    assert DefenceRecord.from_json(json.loads(json.dumps(record.to_json()))) == record
    run = RunFolder(tmp_path / "run")
    run.begin({}, resume=False)
    run.write_defence("linf-0.1", record)
    assert run.defence("linf-0.1") == record
    assert run.defence("l2-1") is None
    assert run.defences() == [record]
    assert [p.name for p in (tmp_path / "run" / "defences").iterdir()] == ["linf-0.1.json"]


def test_what_a_part_is_judged_against_is_found():
    assert DEFENCE.without(STAGES) == DEFENCE.robust
    assert DEFENCE.without(BEHIND) == STAGES.adaptive


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 0.99])
def test_a_truncated_defence_is_a_clear_error(tmp_path, share):
    run = RunFolder(tmp_path)
    run.write_defence("a", DEFENCE)
    file = tmp_path / "defences" / "a.json"
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(RunError, match="a.json"):
        run.defences()


@pytest.mark.parametrize(
    "broken",
    [
        {"clean": None},
        {"clean": 0.5},
        {"parts": 3},
        {"parts": [{"name": "a"}]},
        {"parts": ["a"]},
        {"stack": [{"name": "a", "kind": "moat", "gradient": ""}]},
        {"stack": None},
        {"threat": "linf"},
        {"thresholds": [{"detector": "energy", "surprise": 1}]},
        {"doubts": None},
    ],
)
def test_a_defence_that_is_none_is_a_clear_error(tmp_path, broken):
    run = RunFolder(tmp_path)
    run.write_defence("a", DEFENCE)
    file = tmp_path / "defences" / "a.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **broken}))
    with pytest.raises(RunError, match=r"a\.json is damaged .*; delete it and resume"):
        run.defence("a")


def test_a_part_that_is_judged_against_a_stranger_is_refused(tmp_path):
    run = RunFolder(tmp_path)
    run.write_defence("a", replace(DEFENCE, parts=(replace(STAGES, against="nobody"),)))
    with pytest.raises(RunError, match="no part 'nobody'"):
        run.defence("a")


def test_a_defence_from_another_version_is_refused(tmp_path):
    run = RunFolder(tmp_path)
    run.write_defence("a", DEFENCE)
    file = tmp_path / "defences" / "a.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "schema": 99}))
    with pytest.raises(RunError, match="schema 99"):
        run.defence("a")


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden"])
def test_names_of_defences_stay_inside_the_folder(tmp_path, name):
    for use in (RunFolder(tmp_path).defence, lambda n: RunFolder(tmp_path).write_defence(n, DEFENCE)):
        with pytest.raises(RunError, match="plain file name"):
            use(name)


def test_what_a_killed_write_leaves_is_no_defence(tmp_path):
    run = RunFolder(tmp_path)
    run.write_defence("a", DEFENCE)
    (tmp_path / "defences" / ".part-x.json").write_bytes(b"{")
    assert len(run.defences()) == 1
