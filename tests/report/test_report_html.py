from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from report_records import (
    HOSTILE,
    bare_assessment,
    black_box_assessment,
    examples,
    header,
    hostile_assessment,
    image_assessment,
    labels,
    record,
    series_assessment,
    statuses,
    table_assessment,
)

from hardpoint.evidence import Assessment, Verdict
from hardpoint.report.html import MAX_BYTES, page_of, write_html
from hardpoint.report.pictures import gallery

VOID = {"meta", "link", "img", "br", "input", "hr"}


class Page(HTMLParser):
    """Reads a page; collects tags with attributes and text, and checks that tags nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["script"], ["style"]):
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).replace("\u202f", " ").split())


ALL = [
    image_assessment,
    black_box_assessment,
    table_assessment,
    series_assessment,
    bare_assessment,
    hostile_assessment,
]


@pytest.mark.parametrize("build", ALL)
def test_every_kind_of_record_gives_a_sound_page(build: object) -> None:
    page = Page(page_of([build()], header()))  # type: ignore[operator]
    ids = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        for reference in (attributes.get("aria-labelledby"), (attributes.get("href") or "").lstrip("#")):
            if reference and not reference.startswith("data:"):
                assert reference in ids
    assert all(a.get("scope") in ("col", "row") for a in page.all("th"))
    assert all(a.get("alt") for a in page.all("img"))
    assert all(a.get("aria-label") or a.get("aria-hidden") for a in page.all("svg"))
    assert len(page.all("h1")) == 1
    assert page.all("html")[0]["lang"] == "en"


def test_nothing_is_loaded_and_only_the_own_script_may_run() -> None:
    text = page_of([image_assessment(), table_assessment(), hostile_assessment()], header())
    page = Page(text)
    without_pictures = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", text)
    assert re.findall(r"(?:https?:)?//[a-z0-9]", without_pictures) == []
    assert "@import" not in text
    assert all((a["src"] or "").startswith("data:image/png;base64,") for a in page.all("img"))
    assert all(a.get("href") == "data:," for a in page.all("link"))
    assert page.all("iframe") == page.all("object") == page.all("form") == []
    assert len(page.all("script")) == len(page.all("style")) == 1
    assert not any(name.startswith("on") or name == "style" for _, a in page.tags for name in a)
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        body = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.S)
        assert body is not None
        digest = base64.b64encode(hashlib.sha256(body[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_hostile_names_stay_text() -> None:
    text = page_of([hostile_assessment()], header(command=HOSTILE, **{HOSTILE: HOSTILE}))
    page = Page(text)
    assert "<script>alert" not in text
    assert "\x00" not in text
    assert "\u202e" not in text
    assert "<script>alert('x')</script>" in page.words
    assert "{{7*7}}" in page.words
    lone = replace(bare_assessment(), model={"name": "a\ud800b" + "c" * 5000})
    assert len(page_of([lone], {}).encode("utf-8")) < 60_000


def test_the_sections_come_in_reading_order() -> None:
    words = Page(page_of([image_assessment(), black_box_assessment()], header())).words
    order = ["resnet-small", "Fail", "Overview", "Clean accuracy", "How it breaks", "What each stage did"]
    order += ["Examples", "By class", "Findings", "Was the attack strong enough?", "Details", "MITRE ATLAS"]
    order += ["How to read these numbers", "upper bound", "Reproduce", "hardpoint assess", "sha256"]
    at = -1
    for part in order:
        at = words.find(part, at + 1)
        assert at >= 0, part


def test_the_numbers_carry_interval_and_n() -> None:
    words = Page(page_of([image_assessment()], header())).words
    assert "52.9 % robust accuracy 49.8 to 56.0 %, n = 1,000" in words
    assert "clean 91.2 % [89.3 to 92.8]" in words
    assert "n = 64 pilot inputs per point, 95 % Wilson intervals" in words
    assert "change ×10" in words
    assert words.index("HP304") < words.index("HP403")
    queries = Page(page_of([black_box_assessment()], header())).words
    assert "queries per input (log scale)" in queries
    assert "n = 400 inputs per point" in queries


def test_nothing_and_unfinished_are_said_aloud() -> None:
    empty = Page(page_of([], {})).words
    assert "Not run" in empty
    assert "This is not a pass" in empty
    part = Page(page_of([bare_assessment()], {"assessments": ["bare", "l1-9"], "status": "running"})).words
    assert "l1-9: planned and not finished" in part
    assert "had not finished" in part
    bare = Page(page_of([bare_assessment()], {})).words
    assert "No gate" in bare
    assert "None: no attack broke an input." in bare
    assert "was not checked" in bare
    assert "did not record the command" in bare


def big_pictures(m: int) -> Assessment:
    original = np.random.default_rng(0).random((m, 3, 200, 200)).astype(np.float32)
    return image_assessment(examples=examples(original, np.clip(original + 0.01, 0, 1)))


def test_the_page_stays_below_its_limit_and_says_what_is_missing() -> None:
    text = page_of([big_pictures(12)], header())
    assert len(text.encode()) <= MAX_BYTES
    assert "left out to keep this page below 2 MB" in text
    many = record(statuses(0, 1000, 2000), labels(3000, 1500))
    text = page_of([replace(many, name=f"a{k}") for k in range(6)], header())
    assert len(text.encode()) <= MAX_BYTES
    assert "better classes are not shown" in text
    assert "left out" not in page_of([image_assessment()], header())


def test_how_examples_are_shown_follows_their_shape() -> None:
    def kind(shape: tuple[int, ...], features: list[str] | None = None) -> str:
        x = np.random.default_rng(0).random((2, *shape))
        a = image_assessment(examples=examples(x, x + 0.01), data={"features": features} if features else {})
        shown = gallery(a)
        assert shown is not None
        return shown.kind

    assert kind((3, 8, 8)) == kind((1, 8, 8)) == kind((8, 8)) == "image"
    assert kind((5,)) == kind((128,)) == kind((300,), ["f"] * 300) == "table"
    assert kind((129,)) == kind((2, 8, 8)) == kind((1, 50)) == kind((3, 4, 4, 4)) == "series"


def test_examples_are_the_smallest_changes_and_at_most_twelve() -> None:
    x = np.zeros((30, 1, 4, 4), np.float32)
    many = replace(examples(x, x + 0.1), distance=np.r_[np.nan, np.linspace(3, 1, 29)])
    shown = gallery(image_assessment(examples=many))
    assert shown is not None
    distances = [float(e.distance) for e in shown.examples]
    assert len(distances) == 12
    assert distances == sorted(distances)
    assert shown.left_out == 18
    assert gallery(image_assessment(examples=examples(x[:0], x[:0]))) is None


def test_feature_tables_show_what_changed() -> None:
    shown = gallery(table_assessment())
    assert shown is not None
    example = shown.examples[0]
    assert (example.changed, example.features) == (2, 6)
    assert [c.feature for c in example.changes] == ["income", "open accounts"]
    assert [c.change for c in example.changes] == ["+1,250.5", "−1"]
    words = np.array([["red", "small"], ["blue", "large"]])
    text = gallery(image_assessment(examples=examples(words, words[::-1])))
    assert text is not None
    assert text.examples[0].changes[0].before == "red"


def test_odd_arrays_do_not_break_the_page() -> None:
    x = np.full((2, 3, 4, 4), np.nan)
    x[0] = np.inf
    assert page_of([image_assessment(examples=examples(x, x))], header())
    ints = np.full((2, 1, 4, 4), 7, np.uint8)
    assert page_of([image_assessment(examples=examples(ints, ints + np.uint8(1)))], header())
    nan_checks = image_assessment(passes={"forward": float("nan")}, metrics={"mcc": float("inf")})
    assert page_of([nan_checks], header(odd=float("nan"), obj=Path("x")))


def test_the_file_is_written_whole(tmp_path: Path) -> None:
    path = write_html(tmp_path / "deep" / "report.html", [bare_assessment()], {})
    assert path.read_text("utf-8").startswith("<!doctype html>")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_reports_need_no_torch() -> None:
    code = "import sys, hardpoint.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_ungated_records_are_neutral() -> None:
    assert table_assessment().verdict in (Verdict.PASS, Verdict.WARN)
    assert 'class="verdict pass"' not in page_of([table_assessment()], {})
