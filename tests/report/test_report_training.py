"""The training on the page, and its curves."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest
import report_records as records

from hardpoint.core.errors import RunError
from hardpoint.evidence import Assessment, Epoch, Rate, RunFolder, Status, TrainingRecord
from hardpoint.evidence.training import best_epoch
from hardpoint.report.before_after import changes, standing_under_all
from hardpoint.report.curves import drawn
from hardpoint.report.html import page_of


def epochs(*robust: float | None) -> tuple[Epoch, ...]:
    return tuple(
        Epoch(n, "<b>pgd</b>", 1.0 / n, 0.4, None if share is None else 0.9, share, 0.1, 2.0)
        for n, share in enumerate(robust, start=1)
    )


def test_the_most_robust_epoch_is_kept_and_the_first_of_equals() -> None:
    kept = best_epoch(epochs(0.1, 0.5, 0.5, 0.3))
    assert kept is not None
    assert kept.number == 2
    last = best_epoch(epochs(None, None))
    assert last is not None
    assert last.number == 2
    assert best_epoch(()) is None


@pytest.mark.parametrize(
    "history", [epochs(0.5), epochs(0.1, 0.5, 0.4), epochs(None, None), epochs(*[0.2] * 60)]
)
def test_curves_are_well_formed_and_inside_the_picture(history: tuple[Epoch, ...]) -> None:
    root = ElementTree.fromstring(drawn(history))
    width, height = (float(part) for part in root.attrib["viewBox"].split()[2:])
    dots = [node for node in root.iter() if node.tag.endswith("circle")]
    assert dots
    for dot in dots:
        assert 0 <= float(dot.attrib["cx"]) <= width
        assert 0 <= float(dot.attrib["cy"]) <= height
    rings = [dot for dot in dots if dot.attrib.get("class") == "kept"]
    assert len(rings) == int(history[0].robust is not None)


def test_the_page_tells_of_the_training_and_escapes_it() -> None:
    record = TrainingRecord("<script>x</script>", 1.75, 5, epochs(0.1, 0.5))
    page = page_of([], {}, (), record)
    assert "<script>x" not in page
    assert "2 of 5 epochs" in page
    assert "1.8 times" in page
    assert "those of epoch 2" in page
    assert "The training" not in page_of([], {})


def test_the_record_survives_the_folder(tmp_path) -> None:  # type: ignore[no-untyped-def]
    run, record = RunFolder(tmp_path), TrainingRecord("trades-10", 2.5, 3, epochs(0.1, None))
    assert run.training() is None
    run.write_training(record)
    assert run.training() == record
    (run.training_path / "record.json").write_text('{"schema": 1, "recipe": 3}')
    with pytest.raises(RunError, match="damaged"):
        run.training()


B, S = Status.BROKEN, Status.STANDING


def assessed(name: str, threat: str, *status: Status) -> Assessment:
    return records.record(
        np.array(status, dtype=np.uint8),
        np.arange(len(status)),
        name=name,
        threat=records.threat(name=threat, text=f"<{threat}>"),
    )


PAIRS = (
    assessed("before-linf-1", "linf-1", B, B, B, S),
    assessed("after-linf-1", "linf-1", S, S, B, S),
    assessed("before-l2-1", "l2-1", S, B, B, B),
    assessed("after-l2-1", "l2-1", S, B, S, S),
)


def test_under_several_threats_each_change_is_told_and_that_under_all() -> None:
    linf, l2, together = changes(PAIRS)
    assert (linf.threat, linf.before, linf.after) == ("<linf-1>", Rate.of(1, 4), Rate.of(3, 4))
    assert (l2.before, l2.after) == (Rate.of(1, 4), Rate.of(3, 4))
    assert (together.before, together.after) == (Rate.of(0, 4), Rate.of(2, 4))
    assert together.difference.value == 0.5
    assert together.difference.paired
    assert standing_under_all(PAIRS[::2]) == Rate.of(0, 4)
    record = TrainingRecord("worst of 2", 5.0, 2, epochs(0.1, 0.5))
    page = page_of(PAIRS, {}, (), record)
    assert page.index("all of them") < page.index("before training")
    assert "after training · &lt;l2-1&gt;" in page
    assert "before-l2-1" not in page
    assert "all of them" not in page_of(PAIRS, {})  # names alone are no training


@pytest.mark.parametrize(
    "given",
    [
        (),
        PAIRS[:2],
        PAIRS[:3],
        (*PAIRS[:3], assessed("after-l2-1", "l2-1", S, S)),
        [*PAIRS[::2], *PAIRS[::2]],
    ],
)
def test_what_cannot_be_set_side_by_side_is_not(given: tuple[Assessment, ...]) -> None:
    assert changes(given) == ()
