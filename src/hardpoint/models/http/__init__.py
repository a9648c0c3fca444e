"""Served models."""

from hardpoint.models.http.client import Usage
from hardpoint.models.http.model import HttpModel
from hardpoint.models.http.wire import Answer, OpenInference, PlainJson, WireProtocol

__all__ = ["Answer", "HttpModel", "OpenInference", "PlainJson", "Usage", "WireProtocol"]
