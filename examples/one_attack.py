"""One attack alone: the nearest misclassified input, seeing labels only."""

import math

import hardpoint as hp
from hardpoint.cli.demo.digits import digits_split, trained_digits_network

_, (x, y) = digits_split()
model = trained_digits_network("plain")

nearest = hp.attacks.HopSkipJump(queries=500)(
    model, x[:20], y[:20], hp.Threat(hp.L2(math.inf), access="labels")
)
print(f"median L2 distance {nearest.distance.median():.2f}, {nearest.passes.queries:.0f} queries per input")
