"""Plug-ins that see every call and every message, on either side."""

from rap.processor.base import BaseProcessor, Pipeline

__all__ = ["BaseProcessor", "Pipeline"]
