"""Certificates against one patch: by masks over any classifier, and by votes over bands and blocks of the image."""

from hardpoint.bounds.patches.ablation import Ablation, Blocks, Columns, Kept, Rows, VoteCertificates
from hardpoint.bounds.patches.double_masking import DoubleMasking, MaskCertificates
from hardpoint.bounds.patches.masks import mask_set, mask_starts
from hardpoint.bounds.patches.sizes import patch_sizes

__all__ = [
    "Ablation",
    "Blocks",
    "Columns",
    "DoubleMasking",
    "Kept",
    "MaskCertificates",
    "Rows",
    "VoteCertificates",
    "mask_set",
    "mask_starts",
    "patch_sizes",
]
