"""The demonstration: two real models on embedded data, assessed in under a minute, offline."""

from hardpoint.cli.demo.run import run_demo

__all__ = ["run_demo"]
