"""The training on the page, and its curves."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from hardpoint.core.errors import RunError
from hardpoint.evidence import Epoch, RunFolder, TrainingRecord
from hardpoint.evidence.training import best_epoch
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
