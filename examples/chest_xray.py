"""A network looks for pneumonia on chest X-rays. Who is missed, and who is frightened, after a change nobody sees?

A single accuracy hides what matters to a doctor, so two numbers are kept apart: *sensitivity*, the share of patients
with pneumonia that the network finds, and *specificity*, the share of healthy ones it leaves alone. The attacker may
change every pixel by two of 256 shades. The defence is to send doubtful pictures to
a person: two detectors, one that refuses near-ties, one that refuses pictures unlike those the network was trained
on. Each is given a limit on its price: at most one picture in ten, for both together, may go to a person.

That limit is a promise about pictures *like those it was set with*. The example sets it twice: with the validation
pictures that came with the training pictures, and with pictures from where the network is going to be used.

Needs PneumoniaMNIST (MedMNIST, children's X-rays at 28 × 28 pixels) as ``pneumoniamnist.npz`` under
``$HARDPOINT_DATA/images/medmnist``. Such small pictures are for learning, not for patients. Writes ``xray.svg`` (what
happens to the sick and to the healthy) and ``xray.html`` (the report of the defended network).

python chest_xray.py [PATIENTS [EPOCHS [PASSES]]]
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from _common import chart, data_file, doubts, fit, results_of
from torch import Tensor, nn

import hardpoint as hp
from hardpoint import defenses
from hardpoint.defenses.detectors import Mahalanobis, Margin

FILE = data_file("images/medmnist/pneumoniamnist.npz")
THREAT = hp.Linf(2 / 255)
HEALTHY, SICK, REFUSED = 0, 1, 2
LAST = "11"  # the network's last layer before it decides
TO_A_PERSON = 0.10


def xrays(part: str) -> tuple[Tensor, Tensor]:
    """Pictures ``[n, 1, 28, 28]`` in [0, 1], and whether they show pneumonia."""
    with np.load(FILE, allow_pickle=False) as file:
        x = torch.from_numpy(file[f"{part}_images"]).float().unsqueeze(1) / 255
        return x, torch.from_numpy(file[f"{part}_labels"]).long().flatten()


def trained(x: Tensor, y: Tensor, epochs: int) -> nn.Module:
    """A small convolutional network; the healthy are few among the pictures and weigh as much as the sick."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(288, 2)),
    )
    return fit(net, x, y, epochs, weight=len(y) / (2 * torch.bincount(y, minlength=2)))


def share(answers: Tensor, y: Tensor, of: int, answer: int) -> hp.Rate:
    """Of the patients who are ``of``, how many get ``answer``."""
    return hp.Rate.of(int((answers[y == of] == answer).sum()), int((y == of).sum()))


def main(patients: int = 200, epochs: int = 8, passes: int | None = None) -> None:
    if not FILE.exists():
        print(
            f"There are no chest X-rays at {FILE}, and none that could stand in for them: set HARDPOINT_DATA."
        )
        return
    x, y = xrays("train")
    net = trained(x, y, epochs)
    plain = hp.Defended(net)
    detectors = [Margin(), Mahalanobis.fit(plain.look(x, [LAST]), y, LAST)]

    test_x, test_y = xrays("test")
    order = torch.randperm(len(test_y), generator=torch.Generator().manual_seed(0))
    here, attacked = order[: len(order) // 2], order[len(order) // 2 :][:patients]
    sources = {"the validation pictures": xrays("val")[0], "pictures from where it is used": test_x[here]}
    rest = order[len(order) // 2 :]
    print(f"Healthy people sent to a person; the limit set is {100 * TO_A_PERSON:g} % of all pictures:")
    for name, benign in sources.items():
        model = defenses.calibrated(plain, detectors, benign, alpha=TO_A_PERSON)
        answers = model.predict(test_x[rest])
        every = hp.Rate.of(int((answers == REFUSED).sum()), len(rest))
        print(f"  set with {name}: {share(answers, test_y[rest], HEALTHY, REFUSED)}; of all pictures {every}")
    print()

    x, y = test_x[attacked], test_y[attacked]
    table = hp.ablate(model, x, y, threat=THREAT, budget=hp.Budget(passes=passes), progress=False)
    print(f"{len(y)} patients; a picture may change by {THREAT.describe()['text']}")
    print(table)
    print()

    bars: dict[str, dict[str, hp.Rate]] = {}
    for name, reader, result in (
        ("network alone", plain, table.undefended),
        ("with the detectors", model, table.results[-1]),
    ):
        before, after = reader.predict(x), reader.predict(result.adversarial)
        print(f"{name}:")
        for of, word in (
            (SICK, "pneumonia found (sensitivity)"),
            (HEALTHY, "healthy left alone (specificity)"),
        ):
            rates = [share(answers, y, of, of) for answers in (before, after)]
            wrong = [share(answers, y, of, 1 - of) for answers in (before, after)]
            print(f"  {word:33} {rates[0]};  under attack {rates[1]}")
            print(f"  {'… answered wrongly':33} {wrong[0]};  under attack {wrong[1]}")
            of_whom = "sick found" if of == SICK else "healthy left alone"
            bars[f"{name}: {of_whom}"] = {"no attack": rates[0], "under attack": rates[1]}
    # what is sent to a person as it is counts as lost already, and nobody tried to slip it past the detectors
    print("What goes to a person without an attack was not attacked: the wrong answers are at least these.")
    doubts(results_of(table))
    chart("xray.svg", "Chest X-rays answered right", bars)
    print(table.report("xray.html"))


if __name__ == "__main__":
    main(*(int(given) for given in sys.argv[1:]))
