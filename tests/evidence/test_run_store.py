"""Run folders: whole after a kill, resumable, and clear about what is wrong with them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest

from hardpoint.core.errors import RunError
from hardpoint.evidence import (
    Assessment,
    Check,
    CurvePoint,
    Examples,
    Outcomes,
    Rate,
    RunFolder,
    StageRecord,
    Status,
    Verdict,
    finding,
)
from hardpoint.evidence.store import write_atomically, write_json

N = 5


def outcomes() -> Outcomes:
    ints = np.arange(N)
    return Outcomes(
        index=ints,
        label=ints % 2,
        clean_prediction=ints % 3,
        final_prediction=ints % 2,
        status=np.array([0, 1, 2, 3, 1], dtype=np.uint8),
        stage=np.array([-1, 0, -1, -1, 2], dtype=np.int16),
        distance=np.array([0.0, 0.1, np.nan, np.nan, 0.3]),
        forward=ints * 3,
        backward=ints * 2,
        queries=ints * 0,
    )


def record(**changes) -> Assessment:
    made = Assessment(
        name="linf-0.1",
        model={"kind": "torch", "sha256": "ab"},
        data={"name": "memory", "n": N},
        threat={"name": "linf-0.1"},
        mode="fast",
        seed=3,
        clean_accuracy=Rate.of(4, N),
        robust_accuracy=Rate.of(2, N),
        outcomes=outcomes(),
        stages=(StageRecord("PGD", 4, 2, 10, 9, 0, 0.5),),
        findings=(finding("HP401", "1 of 5 inputs", measured=0.2),),
        checks=(Check("HP301", "noise", 0.0, None, Verdict.NOT_RUN, "why"),),
        eps_curve=(CurvePoint(0.0, Rate.of(4, N)),),
        query_curve=(),
        examples=Examples(
            index=np.array([1]),
            original=np.zeros((1, 2), np.float32),
            adversarial=np.ones((1, 2), np.float32),
            label=np.array([1]),
            clean_prediction=np.array([1]),
            final_prediction=np.array([0]),
            distance=np.array([0.1]),
        ),
        gate=0.5,
        passes={"forward": 2.5, "backward": 2.0, "queries": 0.0},
        twin={"copied": True, "speedup": None},
        verification={"claimed": 2, "confirmed": 2, "rejected": 0},
        seconds=1.5,
        complete=False,
        metrics={"mcc_clean": 0.5},
    )
    return replace(made, **changes)


def same_arrays(a, b) -> bool:
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name), equal_nan=True) for f in fields(a))


def test_a_record_comes_back_as_it_went(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.begin({"command": "x"}, resume=False)
    folder = run.assessment("linf-0.1")
    folder.finish(record())
    run.close("linf-0.1", complete=True)
    (back,) = run.read()
    for field in fields(Assessment):
        ours, theirs = getattr(record(), field.name), getattr(back, field.name)
        if field.name in ("outcomes", "examples"):
            assert same_arrays(ours, theirs)
            assert [getattr(ours, f.name).dtype for f in fields(ours)] == [
                getattr(theirs, f.name).dtype for f in fields(theirs)
            ]
        else:
            assert ours == theirs
    assert back.outcomes.broken.tolist() == [True, True, False, False, True]
    assert [Status(s).name for s in back.outcomes.status[:4]] == [
        "CLEAN_ERROR",
        "BROKEN",
        "STANDING",
        "UNFINISHED",
    ]


def test_verdicts_are_never_better_than_what_was_done():
    sound = record(complete=True, findings=())
    assert sound.verdict is Verdict.FAIL  # 40 % where 50 % were asked for
    assert replace(sound, gate=0.4).verdict is Verdict.PASS
    assert replace(sound, gate=0.4, complete=False).verdict is Verdict.WARN
    voided = finding("HP301", "noise wins")
    assert replace(sound, gate=0.4, findings=(voided,)).verdict is Verdict.WARN
    assert replace(sound, gate=None).verdict is Verdict.PASS


def test_infinities_become_null_not_broken_json(tmp_path):
    write_json(
        tmp_path / "a.json", {"box": [-float("inf"), float("nan")], "deep": {"x": (1.0, float("inf"))}}
    )
    assert json.loads((tmp_path / "a.json").read_text()) == {"box": [None, None], "deep": {"x": [1.0, None]}}


def test_a_plan_may_hold_infinities_and_resumes(tmp_path):
    folder = RunFolder(tmp_path).assessment("a")
    plan = {"model": {"input_range": [-float("inf"), float("inf")]}, "seed": 0}
    folder.begin(plan)
    folder.begin(plan)


def test_another_plan_is_refused_by_the_name_of_what_differs(tmp_path):
    folder = RunFolder(tmp_path).assessment("a")
    folder.begin({"model": {"sha256": "ab", "name": "M"}, "seed": 0})
    for plan, key in [
        ({"model": {"sha256": "cd", "name": "M"}, "seed": 0}, "model.sha256"),
        ({"model": {"sha256": "ab", "name": "M"}, "seed": 1}, "seed"),
        ({"model": {"sha256": "ab", "name": "M"}}, "seed"),
    ]:
        with pytest.raises(RunError, match=f"another {key}"):
            folder.begin(plan)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 0.999])
def test_a_truncated_unit_is_a_clear_error(tmp_path, share):
    folder = RunFolder(tmp_path).assessment("a")
    folder.write_unit(
        "s00-00000", {"positions": np.arange(1000), "noise": np.random.default_rng(0).random(1000)}
    )
    file = folder.path / "units" / "s00-00000.npz"
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(RunError, match=r"s00-00000.npz.*; delete the file and resume"):
        folder.read_unit("s00-00000")


def test_a_flipped_byte_in_a_unit_is_noticed(tmp_path):
    folder = RunFolder(tmp_path).assessment("a")
    folder.write_unit("u", {"noise": np.random.default_rng(0).random(1000)})
    file = folder.path / "units" / "u.npz"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(bytes(content))
    with pytest.raises(RunError, match="delete the file"):
        folder.read_unit("u")


@pytest.mark.parametrize("name", ["assessment.json", "outcomes.npz", "examples.npz"])
def test_a_damaged_record_is_a_clear_error(tmp_path, name):
    folder = RunFolder(tmp_path).assessment("a")
    folder.finish(record())
    (folder.path / name).write_bytes((folder.path / name).read_bytes()[:40])
    with pytest.raises(RunError, match="damaged|cannot read"):
        folder.read()


def test_damaged_inputs_are_a_clear_error(tmp_path):
    folder = RunFolder(tmp_path).assessment("a")
    folder.write_inputs(np.zeros((100, 3)))
    file = folder.path / "inputs.npy"
    for size in (200, 20, 0):
        file.write_bytes(file.read_bytes()[:size])
        with pytest.raises(RunError, match=r"inputs\.npy"):
            folder.inputs()


def test_a_record_from_another_version_is_refused(tmp_path):
    folder = RunFolder(tmp_path).assessment("a")
    folder.finish(record())
    file = folder.path / "assessment.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "schema": 99}))
    with pytest.raises(RunError, match="schema 99"):
        folder.read()


def test_an_unfinished_assessment_is_no_result(tmp_path):
    with pytest.raises(RunError, match="not finished"):
        RunFolder(tmp_path).assessment("a").read()
    with pytest.raises(RunError, match="does not exist"):
        RunFolder(tmp_path).header()


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden", "a\nb"])
def test_names_stay_inside_the_folder(tmp_path, name):
    with pytest.raises(RunError, match="plain file name"):
        RunFolder(tmp_path).assessment(name)


def test_a_run_is_neither_overwritten_nor_mixed_with_other_files(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.begin({}, resume=False)
    with pytest.raises(RunError, match="already holds a run"):
        run.begin({}, resume=False)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    for resume in (False, True):
        with pytest.raises(RunError, match="not empty"):
            RunFolder(tmp_path / "other").begin({}, resume=resume)


def test_continuing_keeps_what_the_run_already_lists(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.begin({"command": "first"}, resume=False)
    run.assessment("a").finish(record(name="a"))
    run.close("a", complete=True)
    run.begin({"command": "second"}, resume=True)
    run.assessment("b").finish(record(name="b"))
    run.close("b", complete=True)
    assert run.names() == ["a", "b"]
    assert run.header()["command"] == "first"
    assert [r.name for r in run.read()] == ["a", "b"]


def test_what_a_killed_write_leaves_does_no_harm(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    (run.path / ".part-abc").write_bytes(b"half")
    run.begin({}, resume=False)
    folder = run.assessment("a")
    folder.write_unit("u", {"x": np.arange(3)})
    (folder.path / "units" / ".part-xyz.npz").write_bytes(b"half")
    assert folder.units() == ["u"]
    assert not folder.has_unit("v")


WRITER = """
import sys
from pathlib import Path
from hardpoint.evidence.store import write_atomically
path, number = Path(sys.argv[1]), 0
print("ready", flush=True)
while True:
    write_atomically(path, bytes([number % 256]) * 300_000)
    number += 1
"""


def test_a_killed_writer_leaves_a_whole_file(tmp_path):
    path = tmp_path / "file"
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, env={**os.environ}
        ) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            while not path.exists():
                pass
            writer.send_signal(signal.SIGKILL)
        content = path.read_bytes()
        assert len(content) == 300_000
        assert len(set(content)) == 1


def test_a_failed_write_keeps_the_old_file_and_says_why(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    blocked = tmp_path / "file" / "below"  # a file is no folder
    with pytest.raises(RunError, match="cannot write"):
        write_atomically(blocked, b"new")
    assert path.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_the_number_of_parts_is_that_of_whoever_began(tmp_path):
    folder = RunFolder(tmp_path / "run").assessment("a")
    folder.begin({"model": "m"})
    assert folder.shards(3) == 3
    assert RunFolder(tmp_path / "run").assessment("a").shards(1) == 3
