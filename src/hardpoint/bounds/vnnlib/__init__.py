"""Properties of networks in the VNN-LIB format, and what refutes them."""

from hardpoint.bounds.vnnlib.files import read_vnnlib
from hardpoint.bounds.vnnlib.property import Case, Property, holds, witness_text
from hardpoint.bounds.vnnlib.reading import parse_vnnlib

__all__ = ["Case", "Property", "holds", "parse_vnnlib", "read_vnnlib", "witness_text"]
