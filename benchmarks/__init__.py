"""Measurements of Hardpoint beside other libraries, taken in one process on one machine."""
