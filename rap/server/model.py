"""The messages of a call, under the module name that servers have always imported."""

from rap.call import Call, Request, Response

__all__ = ["Call", "Request", "Response"]
