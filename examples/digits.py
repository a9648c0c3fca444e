"""Three lines on a PyTorch module: how many handwritten digits does a small change turn into another?"""

import hardpoint as hp
from hardpoint.cli.demo.digits import digits_split, trained_digits_network

_, (x, y) = digits_split()
model = trained_digits_network("hardened")

result = hp.assess(model, x[:100], y[:100], threat=hp.Linf(0.1))
print(result.robust_accuracy)
print(result.report("digits.html"))
