"""Adapters: what is attacked or protected.

Importing this package needs torch alone; onnx, scikit-learn and httpx are imported by the models that use them.
"""

from hardpoint.models.base import Differentiable, Model
from hardpoint.models.http import HttpModel
from hardpoint.models.limits import limit_access
from hardpoint.models.loading import load_model
from hardpoint.models.onnx import OnnxModel
from hardpoint.models.sklearn import SklearnModel
from hardpoint.models.torch import TorchModel
from hardpoint.models.weights import load_weights

__all__ = [
    "Differentiable",
    "HttpModel",
    "Model",
    "OnnxModel",
    "SklearnModel",
    "TorchModel",
    "limit_access",
    "load_model",
    "load_weights",
]
