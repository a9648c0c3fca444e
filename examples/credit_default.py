"""Who gets credit? A detector of defaults, applicants who polish their last statement, and who pays for robustness.

A lender flags applicants who will probably not pay. One who knows the detector has some money to move before applying:
he can pay more towards the last two bills, catch up on the last late payment, and have the last two bills come out
larger or smaller within what statements allow. He cannot rewrite what lies further back, nor his age, sex or
schooling. What he moves adds up to at most NT$ 20,000.

Every detector is judged *at the same rate of false alarms*: its threshold is set anew so that one good payer in ten
is flagged. Five are compared: gradient boosting, and a vote of three different kinds of models, each as it is and
hardened on rows that such applicants would send; and boosting that is blind to whatever can be changed, which nobody
can mislead and which knows least. The attacker knows each of them, threshold included. Only those who will not pay
have a reason to polish.

Reads UCI "Default of credit card clients" (30,000 customers in Taiwan) as ``taiwan_credit_default.csv.gz`` under
``$HARDPOINT_DATA/text_tabular/tabular``; without it, made-up customers stand in. Writes ``credit.svg``.

python credit_default.py [CUSTOMERS [APPLICANTS [ROUNDS]]]
"""

from __future__ import annotations

import csv
import gzip
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from _common import chart, data_file
from sklearn.compose import make_column_transformer
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import matthews_corrcoef, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

import hardpoint as hp
from hardpoint.harden.tables import Measured, fixed_features, harden_estimator, measure
from hardpoint.threats.features import Feature, Kind, Mutability, Schema

FILE = data_file("text_tabular/tabular/taiwan_credit_default.csv.gz")
FALSE_ALARMS = 0.10
MONEY = 20_000.0  # New Taiwan dollars
CATCHING_UP = 5_000.0  # what a month less behind costs
WHO = ("LIMIT_BAL", "SEX", "EDUCATION", "MARRIAGE", "AGE")
LATE = ("PAY_0", *(f"PAY_{k}" for k in range(2, 7)))
BILLS, PAID = (tuple(f"{word}{k}" for k in range(1, 7)) for word in ("BILL_AMT", "PAY_AMT"))
NAMES = (*WHO, *LATE, *BILLS, *PAID)
HIS = {  # what an applicant can change, in which direction, and what one unit costs in dollars
    "PAY_0": (Mutability.DECREASE, CATCHING_UP),
    **dict.fromkeys(BILLS[:2], (Mutability.YES, 1.0)),
    **dict.fromkeys(PAID[:2], (Mutability.INCREASE, 1.0)),
}
RELATIONS = [
    "PAY_AMT1 <= 1.05 * max(BILL_AMT2, 0) + 1000",
    "PAY_AMT2 <= 1.05 * max(BILL_AMT3, 0) + 1000",
    "BILL_AMT1 >= BILL_AMT2 - PAY_AMT1 - 1000",
    "BILL_AMT1 <= 1.3 * LIMIT_BAL",
]


def customers() -> tuple[Tensor, Tensor]:
    """Rows ``[n, 23]`` and who did not pay next month."""
    if not FILE.exists():
        print(f"No customers at {FILE} (set HARDPOINT_DATA): made-up ones stand in for them,")
        print("and what follows says nothing about real ones.")
        return made_up(2000)
    with gzip.open(FILE, "rt", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    x = torch.tensor([[float(line[name]) for name in NAMES] for line in lines])
    return x, torch.tensor([int(line["default.payment.next.month"]) for line in lines])


def made_up(n: int) -> tuple[Tensor, Tensor]:
    """Customers whose delays persist, who pay less the later they are, and of whom the late do not pay."""
    rng = np.random.default_rng(0)
    limit = rng.integers(1, 51, n) * 10_000
    care = rng.normal(0, 1, n)
    late = [np.clip((care + rng.normal(0, 0.5, n)).round(), -2, 8) for _ in LATE]
    bills = [limit * rng.uniform(0.05, 0.9, n)]  # the oldest first
    paid = []
    for _ in LATE[1:]:
        paid.append((bills[-1] * np.clip(0.5 - 0.4 * care + rng.normal(0, 0.15, n), 0, 1)).round())
        bills.append(np.minimum(bills[-1] - paid[-1] + limit * rng.uniform(0, 0.2, n), limit))
    paid.insert(0, (bills[0] * rng.uniform(0, 0.5, n)).round())
    who = [
        limit,
        rng.integers(1, 3, n),
        rng.integers(1, 4, n),
        rng.integers(1, 4, n),
        rng.integers(21, 70, n),
    ]
    x = np.stack([*who, *late, *[bill.round() for bill in bills[::-1]], *paid[::-1]], 1)
    y = care + 0.3 * (who[4] < 30) + rng.normal(0, 0.6, n) > 0.9
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.int64)


def schema(x: Tensor) -> Schema:
    """What an applicant can do, in dollars: a budget of 1 in L1 is all his money."""
    features = []
    for name, low, high in zip(NAMES, x.amin(0).tolist(), x.amax(0).tolist(), strict=True):
        mutable, dollars = HIS.get(name, (Mutability.NO, 1.0))
        width = max(high - low, 1.0)
        features.append(Feature(name, Kind.INTEGER, low, high, mutable, cost=dollars * width / MONEY))
    return Schema(features, RELATIONS)


class Flags:
    """A detector with its threshold: shares of classes that are even exactly at the threshold."""

    def __init__(self, detector: Any, good: Tensor) -> None:
        self.detector, self.classes_ = detector, np.array([0, 1])
        self.n_features_in_ = good.shape[1]
        self.level = float(np.quantile(self._lean(good.numpy()), 1 - FALSE_ALARMS))

    def _lean(self, x: Any) -> Any:
        share = np.clip(self.detector.predict_proba(x)[:, 1], 1e-12, 1 - 1e-12)
        return np.log(share / (1 - share))

    def predict_proba(self, x: Any) -> Any:
        share = 1 / (1 + np.exp(self.level - self._lean(x)))
        return np.stack([1 - share, share], 1)

    def predict(self, x: Any) -> Any:
        return (self._lean(x) > self.level).astype(int)

    @property
    def searchable(self) -> Any:
        """What an attacker looks into: the trees, where there are any."""
        return self.detector


def vote() -> Any:
    """Three kinds of models that vote by their probabilities."""
    kinds = [
        ("boosting", boosting()),
        ("trees", ExtraTreesClassifier(40, min_samples_leaf=5, random_state=0)),
        ("lines", LogisticRegression(max_iter=500)),
    ]
    return make_pipeline(StandardScaler(), VotingClassifier(kinds, voting="soft"))


def blind(threat: hp.FeatureEdits) -> Any:
    """Boosting that sees only what cannot be changed."""
    return make_pipeline(make_column_transformer(("passthrough", list(fixed_features(threat)))), boosting())


def boosting() -> Any:
    return HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=15, random_state=0)


def age_band(age: float) -> str:
    return "under 30" if age < 30 else "30 to 44" if age < 45 else "45 and over"


def main(customers_used: int = 12_000, applicants: int = 200, rounds: int = 5) -> None:
    x, y = customers()
    rules = schema(x)
    valid = rules.check(x)
    x, y = x[valid], y[valid]
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:customers_used]
    x, y = x[order], y[order]
    half, most = len(x) // 2, 3 * len(x) // 4
    learn, calm, new = slice(0, half), slice(half, most), slice(most, None)
    threat = hp.FeatureEdits(rules, eps=1.0, norm="l1")
    print(f"{len(x)} customers, {100 * y.double().mean():.0f} % did not pay; {threat.describe()['text']},")
    print(
        f"that is NT$ {MONEY:,.0f}; {len(fixed_features(threat))} of {len(NAMES)} columns cannot be changed"
    )

    def hardened(detector: Any) -> Any:
        return harden_estimator(
            detector,
            x[learn],
            y[learn],
            threat=threat,
            rounds=rounds,
            evading=1,
            most_lost=0.02,
            progress=False,
        ).model

    def fitted(detector: Any) -> Any:
        return detector.fit(x[learn].numpy(), y[learn].numpy())

    makers: dict[str, Callable[[], Any]] = {
        "boosting": lambda: fitted(boosting()),
        "boosting, hardened": lambda: hardened(boosting()),
        "vote": lambda: fitted(vote()),
        "vote, hardened": lambda: hardened(vote()),
        "blind": lambda: fitted(blind(threat)),
    }
    bad = (y[new] == 1).nonzero().squeeze(1)[:applicants]
    x_bad, y_bad = x[new][bad], y[new][bad]
    print(
        f"\nOf {len(bad)} applicants who will not pay are flagged, at {100 * FALSE_ALARMS:g} % false alarms:"
    )
    bars, found = {}, {}
    for name, make in makers.items():
        flags = Flags(make(), x[calm][y[calm] == 0])
        found[name] = measure(flags, x_bad, y_bad, threat=threat)
        clean, robust = found[name].clean_accuracy, found[name].robust_accuracy
        print(f"{name:19}flagged {clean};  after they polish {robust}")
        print(f"{'':19}{quality(flags, x[new], y[new])}")
        bars[name] = {"as they are": clean, "polished": robust}
    print(
        "\nWho pays: flagged as they are, and after they polish, worst first (only applicants who will not pay)"
    )
    for name in ("boosting", "vote, hardened"):
        print(f"{name}:\n{told(found[name], x_bad)}")
    chart("credit.svg", "Applicants who will not pay: how many are flagged", bars)
    print("credit.svg")


def quality(flags: Flags, x: Tensor, y: Tensor) -> str:
    """Accuracy alone says little where four in five pay."""
    said, truth = flags.predict(x.numpy()), y.numpy()
    wrong = hp.Rate.of(int(said[truth == 0].sum()), int((truth == 0).sum()))
    area = roc_auc_score(truth, flags.predict_proba(x.numpy())[:, 1])
    right = 100 * float((said == truth).mean())
    return (
        f"all new customers: accuracy {right:.1f} %, MCC {matthews_corrcoef(truth, said):.3f}, AUC {area:.3f}; "
        f"false alarms {wrong}"
    )


def told(result: Measured, x: Tensor) -> str:
    """The table of groups, by sex, schooling and age."""

    def column(name: str, word: Callable[[float], str]) -> Iterable[str]:
        return [word(value) for value in x[:, NAMES.index(name)].tolist()]

    schools = {1.0: "graduate school", 2.0: "university"}
    groups = {
        "sex": column("SEX", lambda v: "men" if v == 1 else "women"),
        "schooling": column("EDUCATION", lambda v: schools.get(v, "high school or other")),
        "age": column("AGE", age_band),
    }
    return str(hp.by_group(result, groups))


if __name__ == "__main__":
    main(*(int(given) for given in sys.argv[1:]))
