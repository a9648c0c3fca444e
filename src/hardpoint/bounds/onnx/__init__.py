"""ONNX files as graphs that bounds are known for."""

from hardpoint.bounds.onnx.network import OnnxNetwork, read_network
from hardpoint.bounds.onnx.reading import imported

__all__ = ["OnnxNetwork", "imported", "read_network"]
