"""Is a defence worth its price? Rounding, JPEG and a detector before a digits network, each against an attacker who knows.

Usage: python defended_digits.py [INPUTS]
"""

import sys

import hardpoint as hp
from hardpoint import defenses
from hardpoint.cli.demo.digits import digits_split, trained_digits_network
from hardpoint.defenses.detectors import Energy, Margin

inputs = int(sys.argv[1]) if len(sys.argv) > 1 else 60
(benign, _), (x, y) = digits_split()
network = trained_digits_network("plain")

model = hp.Defended(network, [defenses.BitDepth(bits=3), defenses.GaussianSmoothing(0.5)])
model = defenses.calibrated(model, [Energy(), Margin()], benign, alpha=0.1)

table = hp.ablate(model, x[:inputs], y[:inputs], threat=hp.Linf(0.1))
print(table)
print()
for alarm in model.alarms:
    print(f"{alarm.detector.name}: {alarm.guarantee}")
