"""Randomised smoothing: what a classifier that votes under noise is proven to answer."""

from hardpoint.bounds.smoothing.ablation import Ablation, Encoding
from hardpoint.bounds.smoothing.additive import Gaussian, Laplace, Uniform
from hardpoint.bounds.smoothing.certificates import ABSTAINED, SmoothedCertificates, fixed_radius
from hardpoint.bounds.smoothing.classifier import Smoothed
from hardpoint.bounds.smoothing.denoise import OneShotDenoiser
from hardpoint.bounds.smoothing.estimators import Anytime, Estimator, Fixed
from hardpoint.bounds.smoothing.grid import IntegerGaussian
from hardpoint.bounds.smoothing.noise import Noise
from hardpoint.bounds.smoothing.record import read_certificates

__all__ = [
    "ABSTAINED",
    "Ablation",
    "Anytime",
    "Encoding",
    "Estimator",
    "Fixed",
    "Gaussian",
    "IntegerGaussian",
    "Laplace",
    "Noise",
    "OneShotDenoiser",
    "Smoothed",
    "SmoothedCertificates",
    "Uniform",
    "fixed_radius",
    "read_certificates",
]
