"""How many training points must change before a vote can turn."""

from __future__ import annotations

import torch
from torch import Tensor

from hardpoint.core.rows import chunks

_NUMBERS_AT_ONCE = 2**24


def poison_radius(labels: Tensor, members: Tensor, classes: int) -> Tensor:
    """int64 ``[n]``: how many buckets can change with the vote's outcome still what it is.

    A changed bucket may change all members that learn from it. For a rival c, a member that votes for the winner can
    give c two votes of the distance, one that votes for a third class one, one that votes for c none. The buckets that
    can do most are added up until they are enough (Wang, Levine and Feizi, "Improved certified defenses against data
    poisoning with (deterministic) finite aggregation", ICML 2022, theorem 1); as no member can do harm twice, the
    members that can do most, as many as the buckets have, bound the sum too. With one member per bucket this is
    half the distance, rounded down (Levine and Feizi, "Deep partition aggregation", ICLR 2021, theorem 1). Ties go to
    the smaller class.

    Args:
        labels: int64 ``[n, M]``, what each member answers.
        members: int64 ``[buckets, d]``, the members that learn from each bucket, none twice.
        classes: how many there are.

    >>> poison_radius(torch.tensor([[1, 1, 1, 1, 0]]), torch.arange(5).view(5, 1), 2)
    tensor([1])
    """
    size = max(1, _NUMBERS_AT_ONCE // max(1, members.numel()))
    parts = [_radius(part, members, classes) for part in chunks(labels, size)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)


def _radius(labels: Tensor, members: Tensor, classes: int) -> Tensor:
    votes = torch.nn.functional.one_hot(labels, classes).sum(1)
    top = votes.argmax(1)
    own = votes.gather(1, top.unsqueeze(1)).squeeze(1)
    radius = torch.full_like(top, len(members))
    for_top = (labels == top.unsqueeze(1)).long()
    for rival in range(classes):
        distance = own - votes[:, rival] - (rival < top).long()
        harm = 1 + for_top - (labels == rival).long()
        by_bucket = harm[:, members].sum(2).sort(1, descending=True).values.cumsum(1)
        by_member = harm.sort(1, descending=True).values.cumsum(1)
        ends = (torch.arange(1, len(members) + 1) * members.shape[1]).clamp(max=labels.shape[1]) - 1
        most = torch.minimum(by_bucket, by_member[:, ends])
        held = (most <= distance.unsqueeze(1)).sum(1)
        radius = torch.where(top == rival, radius, torch.minimum(radius, held))
    return radius
