"""How strong was the attack? Checks on a pilot of inputs, each with a measured number, a threshold and a verdict.

Names C1 … C14 are those of Carlini et al., "On evaluating adversarial robustness" (2019), I1 … I6 those of Pintor et
al., "Indicators of attack failure" (NeurIPS 2022). docs/panel.md says where each of them lives.
"""

from hardpoint.assess.panel.panel import measure_strength
from hardpoint.assess.panel.pilot import PILOT, spread
from hardpoint.assess.panel.strength import Strength

__all__ = ["PILOT", "Strength", "measure_strength", "spread"]
