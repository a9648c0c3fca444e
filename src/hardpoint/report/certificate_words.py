"""What was proven, in plain English: both sides of robust accuracy, and what a proof does not say."""

from __future__ import annotations

from collections.abc import Iterator

from hardpoint.evidence import CertificateRecord, Level, Standing, Verdict
from hardpoint.report.words import Headline, number, percent


def certified_model(record: CertificateRecord) -> str:
    """What to call the model."""
    return str(record.model.get("name") or record.model.get("kind") or "model")


def certified_threat(record: CertificateRecord) -> str:
    """The change that proofs speak about: ``Linf ≤ 8/255``."""
    return str(record.threat.get("text") or record.name)


def certificate_sentence(record: CertificateRecord) -> str:
    """Both sides of robust accuracy in one sentence."""
    n, proven = len(record.certificates), record.count(Standing.ROBUST)
    fell, unknown = record.count(Standing.VULNERABLE), record.count(Standing.UNKNOWN)
    wrong = record.count(Standing.MISTAKEN)
    parts = [
        f"{number(fell)} {'is' if fell == 1 else 'are'} broken by a change that was found" if fell else "",
        f"{number(unknown)} {'is' if unknown == 1 else 'are'} unknown" if unknown else "",
        f"{number(wrong)} {'is' if wrong == 1 else 'are'} wrong unchanged" if wrong else "",
    ]
    rest = ", ".join(part for part in parts if part)
    subject = f"{number(proven)} of {number(n)} input{'' if n == 1 else 's'}"
    verb = "is" if proven == 1 else "are"
    return (
        f"{subject} {verb} proven to keep {'its' if n == 1 else 'their'} class under every change within "
        + (f"{certified_threat(record)}; {rest}." if rest else f"{certified_threat(record)}.")
    )


def certificate_headline(record: CertificateRecord) -> Headline:
    """The verdict with its reason; without a gate nothing can pass."""
    if record.gate is None:
        return Headline("none", "No gate", "No proven share was asked for, so this is a measurement only.")
    gate = percent(record.gate)
    if record.verdict is Verdict.PASS:
        return Headline("pass", "Pass", f"The proven share reaches the gate of {gate}.")
    if record.verdict is Verdict.FAIL:
        reason = f"Even if all that is unknown were proven, the share would be below the gate of {gate}."
        return Headline("fail", "Fail", reason)
    reason = f"The proven share is below the gate of {gate}; with what is unknown it could still reach it."
    return Headline("warn", "Undecided", reason)


_LEVELS = {
    Level.REAL: (
        "The proofs are about the network in exact arithmetic. The rounding of the bounds, and of the network where it "
        "is deployed in float32, is met by an allowance of 1e-5 in the scores, which is no proof."
    ),
    Level.RIGOROUS: (
        "The proofs are about the network in exact arithmetic, and every rounding of the bounds is counted. The "
        "network that is deployed rounds by itself: at a margin near 0 it may still answer otherwise."
    ),
    Level.DEPLOYED: (
        "The proofs are about the network as float32 computes it, layer by layer, in whatever order it sums. Not "
        "covered are arithmetics of fewer bits (TF32, bfloat16), convolutions by Winograd or Fourier, and layers "
        "folded together."
    ),
}
_METHODS = {
    "interval": "Only interval bounds were tried",
    "crown": "Interval and linear bounds were tried, each input once",
    "alpha": "Linear bounds were tried, their lines chosen for each input",
}


def says(record: CertificateRecord) -> Iterator[str]:
    """What follows from the proofs."""
    low, high = percent(record.certified.value), percent(record.unbroken.value)
    both = f"lies between {low} and {high}" if record.count(Standing.UNKNOWN) else f"is {low}"
    yield (
        f"Each proven input keeps its class under every change within {certified_threat(record)}: no attack, known or "
        f"not, can change that. Robust accuracy on these inputs {both}."
    )
    yield _LEVELS[record.level]
    if record.count(Standing.VULNERABLE):
        yield (
            "Each broken input has a point inside the allowed changes that the model itself, in its own precision, "
            "alone and in a batch, answers wrongly. The run folder holds the points."
        )


def says_not(record: CertificateRecord) -> Iterator[str]:
    """What does not follow."""
    yield "Nothing is said of other changes, of larger ones, or of other weights than those with this hash."
    if record.count(Standing.UNKNOWN):
        how = _METHODS.get(
            record.method, f"Branch and bound had {number(record.seconds_per_input)} s for each input"
        )
        yield f"Unknown is neither safe nor broken. {how}; a longer search may decide more."
    yield (
        "A bound is what was proven when the search stopped, not the margin itself: the margin is at least so large."
    )
    if record.threat.get("kind") == "FeatureEdits":
        yield (
            "Relations between features and whole numbers were left out: proofs hold all the same, and some inputs "
            "may be unknown because of it."
        )
    yield (
        "The intervals (95 %, Wilson) are for other inputs drawn like these. For these inputs the shares are exact: "
        "there is nothing random in a proof."
    )
