"""ONNX files as models."""

from hardpoint.models.onnx.graph import Graph, GraphModule, Node
from hardpoint.models.onnx.model import OnnxModel

__all__ = ["Graph", "GraphModule", "Node", "OnnxModel"]
