"""Defences that change the input before the model sees it."""

from hardpoint.defenses.transforms.autoencoder import DenoisingAutoencoder
from hardpoint.defenses.transforms.bit_depth import BitDepth
from hardpoint.defenses.transforms.gaussian import GaussianSmoothing
from hardpoint.defenses.transforms.jpeg import JpegCompression
from hardpoint.defenses.transforms.masking import GradientMasking
from hardpoint.defenses.transforms.median import MedianSmoothing
from hardpoint.defenses.transforms.noise import AdditiveNoise, NoiseKind
from hardpoint.defenses.transforms.non_local_means import NonLocalMeans
from hardpoint.defenses.transforms.pca import PcaProjection
from hardpoint.defenses.transforms.quantile import QuantileEncoding
from hardpoint.defenses.transforms.resize_pad import RandomResizePad
from hardpoint.defenses.transforms.scaling import MinMaxScaling, Standardise
from hardpoint.defenses.transforms.thermometer import ThermometerEncoding
from hardpoint.defenses.transforms.total_variation import TotalVariation

__all__ = [
    "AdditiveNoise",
    "BitDepth",
    "DenoisingAutoencoder",
    "GaussianSmoothing",
    "GradientMasking",
    "JpegCompression",
    "MedianSmoothing",
    "MinMaxScaling",
    "NoiseKind",
    "NonLocalMeans",
    "PcaProjection",
    "QuantileEncoding",
    "RandomResizePad",
    "Standardise",
    "ThermometerEncoding",
    "TotalVariation",
]
