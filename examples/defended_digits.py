"""Is a defence worth its price? Rounding, smoothing and two detectors, each against an attacker who knows it.

Usage: python defended_digits.py [INPUTS]
"""

import sys

import hardpoint as hp
from hardpoint import defenses
from hardpoint.cli.demo.digits import digits_split, trained_digits_network
from hardpoint.defenses.detectors import Energy, Margin

inputs = int(sys.argv[1]) if len(sys.argv) > 1 else 60
_, (x, y) = digits_split()
benign = x[200:]  # calibration needs inputs that nothing was trained on, and that are not attacked below
network = trained_digits_network("plain")

model = hp.Defended(network, [defenses.BitDepth(bits=3), defenses.GaussianSmoothing(0.5)])
model = defenses.calibrated(model, [Energy(), Margin()], benign, alpha=0.1)

short = hp.Budget(passes=600)  # for a first look; leave it out for a result
table = hp.ablate(model, x[:inputs], y[:inputs], threat=hp.Linf(0.1), budget=short)
print(table)
print()
for alarm in model.alarms:
    print(f"{alarm.detector.name}: {alarm.guarantee}")
