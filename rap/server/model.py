"""The messages of a call, under the name that servers import them by."""

from rap.call import Call, Request, Response

__all__ = ["Call", "Request", "Response"]
