"""What a defence is worth, in plain English. A naive number is never said without the adaptive one."""

from __future__ import annotations

from hardpoint.evidence import DefenceRecord, PartKind, PartRecord, Worth
from hardpoint.report.words import Headline, number, percent

_TONES = {Worth.ADDS: "pass", Worth.NOTHING: "none", Worth.HIDES: "fail", Worth.HARMS: "fail"}


def verdict(part: PartRecord) -> Headline:
    """The verdict on a part, with its sentence left out."""
    return Headline(_TONES[part.worth], part.worth.value.capitalize(), "")


def stack_sentence(record: DefenceRecord) -> str:
    """The whole defence in one sentence."""
    if not record.parts:
        return "What the defence is worth was not measured; the table says what its thresholds do."
    whole = record.parts[-1]
    subject = "The stack" if whole.kind is PartKind.STACK else whole.name
    lost = record.clean.value - whole.clean.value
    if abs(lost) < 0.0005:
        price = f"{subject} costs no clean accuracy"
    else:
        verb = "costs" if lost > 0 else "gains"
        price = f"{subject} {verb} {_points(abs(lost))} of clean accuracy"
    with_it, without = percent(whole.adaptive.value), percent(record.robust.value)
    gained = whole.adaptive.value - record.robust.value
    match whole.worth:
        case Worth.ADDS:
            return f"{price} and adds {_points(gained)} of robust accuracy: {with_it} stand with it, {without} without."
        case Worth.HARMS:
            return f"{price} and harms: {with_it} stand with it, {without} without."
        case Worth.HIDES:
            return (
                f"{price} and hides more than it holds: {percent(whole.naive.value)} stand against an attacker who "
                f"does not know it (naive), {with_it} against one who does (adaptive), {without} without it."
            )
        case Worth.NOTHING:
            return f"{price} and adds nothing: {with_it} stand with it, {without} without."


def part_sentence(record: DefenceRecord, part: PartRecord) -> str:
    """One part in one sentence: what stands with it and without it, and whether chance explains the difference."""
    with_it, without = percent(part.adaptive.value), percent(record.without(part).value)
    other = "without it" if part.against is None else f"with {part.against} alone"
    if part.worth is Worth.HIDES:
        return (
            f"Against an attacker who does not know it {percent(part.naive.value)} stand (naive), against one who does "
            f"{with_it} (adaptive), {other} {without}."
        )
    stand = f"{with_it} stand with it, {without} {other}"
    n = number(part.adaptive.n)
    if part.won == part.lost == 0:
        return f"{stand}: the same {n} inputs stand and fall."
    differ = f"of {n} inputs {number(part.won)} stand only with it and {number(part.lost)} only without"
    chance = "chance explains that" if part.worth is Worth.NOTHING else "more than chance explains"
    return f"{stand}; {differ}, {chance}."


def _points(share: float) -> str:
    points = f"{100 * share:.1f}".removesuffix(".0")
    return f"{points} point{'' if points == '1' else 's'}"
