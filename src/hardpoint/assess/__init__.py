"""The verb ``assess``: pre-flight checks, the cascade, verification, the record."""

from hardpoint.assess.assess import assess, doctor
from hardpoint.assess.cascade import Mode
from hardpoint.assess.result import Result, load_result

__all__ = ["Mode", "Result", "assess", "doctor", "load_result"]
