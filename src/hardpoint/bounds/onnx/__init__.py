"""ONNX files as graphs that bounds are known for."""

from hardpoint.bounds.onnx.network import Network, read_network
from hardpoint.bounds.onnx.reading import imported

__all__ = ["Network", "imported", "read_network"]
