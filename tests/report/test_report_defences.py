"""The page about a defence: nothing naive without what is adaptive, and refusals that are no class."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import jsonschema
import pytest
import torch
from defence_records import (
    REFUSAL,
    THRESHOLDS,
    defence,
    hostile_defence,
    part,
    refusing_assessment,
    threshold,
)
from hypothesis import given
from hypothesis import strategies as st
from report_records import HOSTILE, bare_assessment, header, image_assessment, record, statuses
from report_records import labels as right_labels

import hardpoint as hp
from hardpoint.defenses import Alarm
from hardpoint.defenses.detectors import Energy
from hardpoint.evidence import Assessment, PartKind, Rate, StackPart, Worth
from hardpoint.report import compare, junit, report_schema, sarif, summary_json
from hardpoint.report.defence_words import part_sentence, stack_sentence
from hardpoint.report.diagram import stack_diagram
from hardpoint.report.html import page_of
from hardpoint.report.reading import class_name, model_name
from small_models import labelled, mlp, rand

VOID = {"meta", "link", "img", "br", "input", "hr"}


class Blocks(HTMLParser):
    """The texts of a page, one for each outermost paragraph, row, item …; spoken labels are among them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.open: list[str] = []
        self.inside = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in VOID:
            return
        self.open.append(tag)
        if self._is_row(tag):
            self.inside += 1
            if self.inside == 1:
                self.texts.append("")
        label = dict(attrs).get("aria-label")
        if label and self.inside:
            self.texts[-1] += f" {label} "

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.inside -= self._is_row(tag)

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["script"], ["style"]):
            if not self.inside:
                self.texts.append("")
            self.texts[-1] += f" {data}"

    @staticmethod
    def _is_row(tag: str) -> bool:
        return tag in {"p", "li", "tr", "figcaption"}

    @property
    def blocks(self) -> list[str]:
        return [" ".join(text.replace("\u202f", " ").split()) for text in self.texts]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.blocks).split())


def only_with_adaptive(page: str) -> list[str]:
    """The blocks of a page that speak of naive attackers or of AUROC; each must give the adaptive side as well."""
    spoken = [b for b in Blocks(page).blocks if re.search(r"naive|auroc|does not know it", b, re.I)]
    for block in spoken:
        assert re.search(r"adaptive", block, re.I), block
        naive = re.findall(r"naive:? (\d[\d.]* %|not measured)", block)
        adaptive = re.findall(r"adaptive:? (\d[\d.]* %|not measured)", block)
        assert len(adaptive) >= len(naive), block
        assert not ("AUROC" in block and not adaptive), block
    return spoken


RECORDS = {
    "parts": defence(),
    "both": defence(thresholds=THRESHOLDS),
    "thresholds": defence(parts=(), thresholds=THRESHOLDS),
    "one": defence(parts=(part("BitDepth", PartKind.STAGE, 80, Worth.HIDES),)),
    "hides": defence(parts=(part("all together", PartKind.STACK, 20, Worth.HIDES),)),
}


@pytest.mark.parametrize("name", list(RECORDS))
def test_no_naive_number_stands_without_the_adaptive_one(name: str) -> None:
    assert only_with_adaptive(page_of([], {}, [RECORDS[name]]))


def test_the_check_notices_a_naive_number_that_stands_alone() -> None:
    for alone in (
        "<p>naive 75 %</p>",
        "<p>AUROC 0.99</p>",
        "<tr><td>naive 75 %</td></tr><p>adaptive 3 %</p>",
    ):
        with pytest.raises(AssertionError):
            only_with_adaptive(alone)


def test_other_pages_speak_of_neither() -> None:
    assert only_with_adaptive(page_of([image_assessment(), refusing_assessment()], header())) == []


def test_the_page_says_what_the_stack_costs_and_what_every_part_is_worth() -> None:
    words = Blocks(page_of([], header(), [defence(thresholds=THRESHOLDS)])).words
    said = (
        "The stack costs 2 points of clean accuracy and adds nothing: 40.5 % stand with it, 41 % without.",
        "Against an attacker who does not know it 75 % stand (naive), against one who does 40 % (adaptive), "
        "without it 41 %.",
        "55 % stand with it, 41 % without it; of 200 inputs 30 stand only with it and 2 only without, "
        "more than chance explains.",
        "of 200 inputs 3 stand only with it and 4 only without, chance explains that.",
        "6 % [3.5 to 10.2]",  # refused
        "not measured",
        "No threshold: it takes 2,995 benign inputs to calibrate one.",
        "With 95 % confidence, at most 5 % of benign inputs are flagged.",
    )
    for sentence in said:
        assert sentence in words


def test_the_headline_names_gain_loss_and_what_was_not_measured() -> None:
    def headline(worth: Worth, adaptive: int, clean: int = 194, kind: PartKind = PartKind.STACK) -> str:
        whole = part("BitDepth", kind, adaptive, worth, clean=Rate.of(clean, 200))
        return stack_sentence(defence(parts=(whole,))).replace("\u202f", " ")

    assert headline(Worth.ADDS, 122) == (
        "The stack costs no clean accuracy and adds 20 points of robust accuracy: 61 % stand with it, 41 % without."
    )
    assert headline(Worth.HARMS, 40, clean=196, kind=PartKind.STAGE) == (
        "BitDepth gains 1 point of clean accuracy and harms: 20 % stand with it, 41 % without."
    )
    hides = headline(Worth.HIDES, 80)
    assert (
        "75 % stand against an attacker who does not know it (naive), 40 % against one who does (adaptive)"
        in hides
    )
    assert "not measured" in stack_sentence(defence(parts=()))


def test_a_detector_is_told_against_what_it_stands_behind() -> None:
    behind = part(
        "energy behind them", PartKind.DETECTOR, 80, Worth.NOTHING, against="BitDepth", won=0, lost=0
    )
    told = defence(parts=(part("BitDepth", PartKind.STAGE, 80, Worth.NOTHING), behind))
    assert part_sentence(told, behind).replace("\u202f", " ") == (
        "40 % stand with it, 40 % with BitDepth alone: the same 200 inputs stand and fall."
    )


def test_the_diagram_shows_every_part_and_how_gradients_cross_it() -> None:
    svg = stack_diagram(defence().stack)
    at = [
        svg.index(word) for word in (">input<", ">BitDepth<", ">AdditiveNoise<", ">resnet-small<", ">energy<")
    ]
    assert at == sorted(at)
    for word in ("gradients: straight-through", "gradients: autograd, random", ">answer<", ">refused<"):
        assert word in svg
    assert ">refused<" not in stack_diagram(defence().stack[:3])
    assert "<b>" not in stack_diagram([StackPart("<b>" * 30, PartKind.STAGE, "<b>")])


@given(st.lists(st.sampled_from([PartKind.STAGE, PartKind.DETECTOR]), max_size=12))
def test_boxes_do_not_overlap_and_lie_inside(kinds: list[PartKind]) -> None:
    stack = [StackPart(f"p{i}", kind, "autograd") for i, kind in enumerate(kinds)]
    svg = stack_diagram(stack)
    height = float(re.search(r'viewBox="0 0 \S+ ([\d.]+)"', svg)[1])  # type: ignore[index]
    found = re.findall(r'class="(?:stage|detector)" x="\S+" y="([\d.]+)" width="\S+" height="([\d.]+)"', svg)
    boxes = sorted((float(y), float(y) + float(high)) for y, high in found)
    assert len(boxes) == len(kinds)
    assert all(low >= high for (_, high), (low, _) in pairwise(boxes))
    assert all(0 <= top < bottom < height for top, bottom in boxes)


def test_hostile_names_in_a_defence_stay_text() -> None:
    text = page_of([], {}, [hostile_defence()])
    assert "<script>alert" not in text
    assert "\x00" not in text
    assert "\u202e" not in text
    assert HOSTILE.split("\x00")[0] in Blocks(text).words


def test_a_run_shows_its_defence_first_and_links_to_the_assessments() -> None:
    whole = refusing_assessment(name="linf-all-together")
    bare = record(statuses(6, 112, 82), right_labels(200), name="linf-undefended")
    other = bare_assessment()
    text = page_of([bare, whole, other], header(), [defence()])
    assert re.search(r'href="#a1[^"]*">undefended</a>', text)
    assert re.search(r'href="#a2[^"]*">all together</a>', text)
    assert text.index('id="defence-1"') < text.index('id="a1')
    assert text.count('<article class="verdict') == 2  # the defence, and what is no part of it
    assert "2 threats" not in text
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_doubts_are_said_once_and_with_whom_they_concern() -> None:
    cut = "not every input was attacked in full"
    record_ = defence(doubts=(cut,), parts=tuple(replace(p, doubts=(cut,)) for p in defence().parts[:1]))
    words = Blocks(page_of([], {}, [record_])).words
    assert f"{cut} (undefended, BitDepth)" in words
    assert "In doubt: fewer may stand than these numbers say" in words
    assert "In doubt" not in Blocks(page_of([], {}, [defence()])).words


def test_the_summary_of_a_defence_fits_the_published_schema() -> None:
    report = summary_json(
        [refusing_assessment()], header(), [defence(thresholds=THRESHOLDS), hostile_defence()]
    )
    jsonschema.validate(report, report_schema())
    assert report["defences"][0]["parts"][0]["worth"] == "hides"
    assert report["defences"][0]["sentence"].startswith("The stack costs 2 points")
    assert report["assessments"][0]["refused"]["count"] == 12
    assert summary_json([image_assessment()], header())["assessments"][0]["refused"] is None


def test_a_refusal_has_a_name_of_its_own_in_every_form() -> None:
    a = refusing_assessment(gate=0.9)
    assert class_name(a, REFUSAL) == "refused"
    assert class_name(a, REFUSAL - 1) == "truck"
    assert class_name(a, REFUSAL + 1) == f"class {REFUSAL + 1}"
    more = refusing_assessment(data={**a.data, "classes": [*a.data["classes"], "boat"]})
    assert class_name(more, REFUSAL) == "refused"  # never the name of a class that the model does not have
    assert class_name(image_assessment(), REFUSAL) == f"class {REFUSAL}"
    words = Blocks(page_of([a], header())).words
    said = "12 of 200 clean inputs were refused. Broken means answered wrong and accepted"
    assert said in words
    assert "Refused without attack 12 Wrong without attack 8 Broken 60" in words
    assert "BitDepth: bits 3, low 0, high 1" in words
    assert "energy: threshold −3.25" in words
    assert "resnet-small behind BitDepth, energy" in words
    assert said in junit([a], header())
    for form in (page_of([a], header()), junit([a], header()), json.dumps(sarif([a], header()))):
        assert f"class {REFUSAL}" not in form
    assert "clean inputs" not in junit([image_assessment()], header())


def test_the_same_network_behind_other_defences_is_another_model() -> None:
    bare, behind = image_assessment(), refusing_assessment()
    assert model_name(bare) != model_name(behind)

    def prints(a: Assessment) -> set[str]:
        found = sarif([a], header())["runs"][0]["results"]
        return {r["partialFingerprints"]["hardpointFinding/v1"] for r in found}

    gated = [replace(a, gate=0.99, name="x", threat=bare.threat) for a in (bare, behind)]
    assert prints(gated[0]).isdisjoint(prints(gated[1]))
    classes = {c.split('"')[0] for c in junit(gated, header()).split('classname="')[1:]}
    assert len(classes) > 1


def test_a_flip_to_a_refusal_is_told_as_one() -> None:
    from hardpoint.report.compare_html import _panel

    a = refusing_assessment()
    before = replace(a, outcomes=replace(a.outcomes, status=(a.outcomes.status * 0 + 2).astype("uint8")))
    (panel,) = [_panel(t, 1, ("before", "after")) for t in compare([before], [a]).threats]
    after = {flip.after for flip in panel.flips}
    assert "refused without attack" in after
    assert not any("answers refused" in text for text in after)


@pytest.mark.usefixtures("no_panel")
def test_a_real_assessment_of_a_refusing_model_is_told_right() -> None:
    net, x = mlp(), rand(60, 8, seed=8)
    y = labelled(net, x)
    energies = hp.Defended(net).look(x).logits.logsumexp(1).neg()
    strict = Alarm(Energy(), float(energies.sort().values[-7]), classes=4)
    result = hp.assess(
        hp.Defended(net, detectors=[strict]),
        x,
        y,
        threat=hp.Linf(0.05),
        progress=False,
        budget=hp.Budget(passes=60),
    )
    assert result.record.model["refusal"] == 4
    words = Blocks(page_of([result.record], result.header)).words
    assert "6 of 60 clean inputs were refused." in words
    assert "class 4" not in words
    assert "refusal" not in hp.assess(net, x, y, threat=hp.Linf(0.0), progress=False).record.model


@pytest.mark.usefixtures("no_panel")
def test_an_ablation_writes_its_page(tmp_path) -> None:
    net, x = mlp(), rand(40, 8, seed=8)
    y = labelled(net, x)
    found = hp.ablate(
        hp.Defended(net, [hp.defenses.BitDepth(bits=2), torch.nn.Identity()]),
        x,
        y,
        threat=hp.Linf(0.1),
        progress=False,
        budget=hp.Budget(passes=60),
    )
    page = found.with_thresholds([threshold()]).report(tmp_path / "page.html").read_text("utf-8")
    words = Blocks(page).words
    assert only_with_adaptive(page)
    assert "gradients: probed" in page
    assert "hp.ablate(model, x, y, threat=Linf(eps=0.1), mode='fast', seed=0)" in words
    assert "planned and not finished" not in words
    assert "above −3.25" in words
