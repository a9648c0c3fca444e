"""ONNX files as graphs that bounds are known for."""

from hardpoint.bounds.onnx.network import OnnxNetwork, flat_answers, read_network
from hardpoint.bounds.onnx.reading import imported

__all__ = ["OnnxNetwork", "flat_answers", "imported", "read_network"]
