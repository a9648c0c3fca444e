"""What training for diversity is worth: how much transfers between the members, and what the whole withstands.

python -m benchmarks.ensembles [--quick] [--threads 1] [--only digits] [--write PATH]

Three networks per ensemble, trained together with and without a diversity term: the same architecture, first weights,
order of inputs, steps and data. Each ensemble is compared with the one trained without, input by input (an exact
two-sided sign test over all seeds): intervals of two rates measured on the same inputs say less.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from scipy.stats import binomtest
from torch import Tensor, nn

import hardpoint as hp
from benchmarks.measure import Options, Table
from benchmarks.models import mnist, mnist_training
from hardpoint.cli.demo.digits import digits_network, digits_split
from hardpoint.core.rng import Rng
from hardpoint.defenses import (
    AdaptiveDiversity,
    AttackedInputs,
    Ensemble,
    GradientAlignment,
    Schedule,
    TransferReduction,
    train_members,
)
from hardpoint.defenses.networks import Diversity
from hardpoint.engine.guard import preserved_random_state
from hardpoint.evidence.rate import Rate

MEMBERS = 3
NONE = "none"
TERMS: dict[str, Diversity | None] = {
    NONE: None,
    "ADP 2, 0.5": AdaptiveDiversity(2.0, 0.5),
    "GAL 0.5": GradientAlignment(0.5),
    "TRS 1, 1": TransferReduction(1.0, 1.0),
    "TRS 0, 1": TransferReduction(0.0, 1.0),
}
"""Weights from the papers, and for TRS picked on a part of the training data of another seed. The last has no term that
tells members apart: what smoothness does alone."""


@dataclass(frozen=True)
class Setting:
    """Data, network and a budget at which the ensemble trained without a term stands in the middle."""

    name: str
    network: Callable[[], nn.Module]
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    eps: float
    epochs: int


@dataclass
class Measured:
    """One term in one setting, seed after seed."""

    clean: list[Rate]
    standing: list[Tensor]
    transferred: list[tuple[int, int]]


def run(
    options: Options, only: Sequence[str] = ("digits", "mnist"), names: Sequence[str] = tuple(TERMS)
) -> list[Table]:
    """One table per setting."""
    return [_table(setting, names, options) for setting in _settings(options, only)]


def _settings(options: Options, only: Sequence[str]) -> list[Setting]:
    n = 60 if options.quick else 500
    (x, y), (xt, yt) = digits_split()
    found = [Setting("digits", digits_network, (x, y), (xt[:n], yt[:n]), 0.12, 20)]
    try:
        (x, y), (xt, yt) = mnist_training(), mnist()
    except FileNotFoundError as missing:
        options.say(f"Left out: MNIST ({missing.filename} is absent)")
    else:
        n = min(n, 200)
        found.append(Setting("mnist", _mnist_network, (x[:4000], y[:4000]), (xt[:n], yt[:n]), 0.1, 8))
    return [setting for setting in found if setting.name in only]


def _mnist_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 4, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 7 * 7, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def _table(setting: Setting, names: Sequence[str], options: Options) -> Table:
    seeds = range(1 if options.quick else 3)
    measured = {name: _measured(setting, name, seeds, options) for name in names}
    columns = ["term", "transfers", "clean", "robust", "by seed", "more than none", "p"]
    table = Table(f"{setting.name}: {MEMBERS} members, Linf {setting.eps:g}", columns)
    for name, found in measured.items():
        of, made = (sum(part) for part in zip(*found.transferred, strict=True))
        standing = torch.cat(found.standing)
        base = torch.cat(measured[NONE].standing) if NONE in measured else standing
        won, lost = int((standing & ~base).sum()), int((base & ~standing).sum())
        p = binomtest(won, won + lost).pvalue if won + lost else 1.0
        by_seed = " ".join(f"{100 * float(part.double().mean()):.1f}" for part in found.standing)
        rates = [Rate.of(of, made) if made else None, *(_pooled(found.clean), _of(standing))]
        cells = ["none broken" if rate is None else str(rate) for rate in rates]
        table.rows.append([name, *cells, by_seed, f"+{won} -{lost}", f"{p:.2g}"])
    table.notes.append(
        "Transfers: of inputs that two members get right and a member's own attack (PGD, 20 steps) breaks, the share "
        "that breaks the other too. Robust: hp.assess of the whole, mode fast, all seeds; 95 % intervals."
    )
    return table


def _measured(setting: Setting, name: str, seeds: Sequence[int], options: Options) -> Measured:
    found, (x, y) = Measured([], [], []), setting.test
    for seed in seeds:
        schedule = Schedule(2 if options.quick else setting.epochs, seed=seed)
        members = train_members(_untrained(setting, seed), *setting.train, TERMS[name], schedule=schedule)
        result = hp.assess(
            Ensemble(members), x, y, threat=hp.Linf(setting.eps), seed=seed, progress=False, name=name
        )
        found.clean.append(result.clean_accuracy)
        found.standing.append(~result.broken)
        found.transferred.append(_transferred(members, x, y, setting.eps, seed))
        said = ", ".join(f.id for f in result.findings) or "none"
        options.say(
            f"{setting.name}, {name}, seed {seed}: robust {result.robust_accuracy}, transfers "
            f"{found.transferred[-1]}, findings: {said}"
        )
    return found


def _untrained(setting: Setting, seed: int) -> list[nn.Module]:
    networks = []
    for place in range(MEMBERS):
        with preserved_random_state(seed=100 * seed + place):
            networks.append(setting.network())
    return networks


def _transferred(
    members: Sequence[nn.Module], x: Tensor, y: Tensor, eps: float, seed: int
) -> tuple[int, int]:
    """(transferred, made): examples for one member that break another, over all ordered pairs."""
    attack, everyone = AttackedInputs(hp.Linf(eps), steps=20), torch.arange(len(x))
    of = made = 0
    for source, other in itertools.permutations(members, 2):
        moved = attack.of([source], x, y, Rng(seed), everyone)
        right = (source(x).argmax(1) == y) & (other(x).argmax(1) == y)
        broken = right & (source(moved).argmax(1) != y)
        made += int(broken.sum())
        of += int((broken & (other(moved).argmax(1) != y)).sum())
    return of, made


def _of(standing: Tensor) -> Rate:
    return Rate.of(int(standing.sum()), len(standing))


def _pooled(rates: Sequence[Rate]) -> Rate:
    return Rate.of(sum(rate.count for rate in rates), sum(rate.n for rate in rates))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ensembles", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--only", action="append", choices=("digits", "mnist"), help="this data; may be repeated"
    )
    parser.add_argument("--term", action="append", choices=tuple(TERMS), help="this term; may be repeated")
    parser.add_argument("--quick", action="store_true", help="fewer inputs, one seed, almost no training")
    parser.add_argument("--threads", type=int, help="CPU threads; all by default")
    parser.add_argument("--write", type=Path, help="where to write the tables")
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    console = Console(width=150)
    options = Options(quick=asked.quick, say=console.log)
    tables = run(options, asked.only or ("digits", "mnist"), asked.term or tuple(TERMS))
    text = "\n".join(table.markdown() for table in tables)
    console.print(text, markup=False)
    if asked.write is not None:
        asked.write.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
