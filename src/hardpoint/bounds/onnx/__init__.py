"""ONNX files as graphs that bounds are known for."""

from hardpoint.bounds.onnx.network import OnnxNetwork, graphs_of, read_network
from hardpoint.bounds.onnx.reading import imported

__all__ = ["OnnxNetwork", "graphs_of", "imported", "read_network"]
