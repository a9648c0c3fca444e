"""The one layer of a found network that torch does not have. Its source is copied into the file that is written."""

from torch import Tensor, nn


class Residual(nn.Module):
    """What ``body`` makes of the input, added to what ``short`` makes of it (He et al., CVPR 2016)."""

    def __init__(self, body: nn.Module, short: nn.Module) -> None:
        super().__init__()
        self.body, self.short = body, short

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x) + self.short(x)
        return out
