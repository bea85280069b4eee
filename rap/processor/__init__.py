"""Processors: they see each call and each message, on either side."""

from rap.processor.base import BaseProcessor, Pipeline

__all__ = ["BaseProcessor", "Pipeline"]
