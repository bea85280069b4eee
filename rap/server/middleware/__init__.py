"""Middleware: what admits connections, and what stands around unary calls on a server."""

from rap.server.middleware.access import AccessMsgMiddleware
from rap.server.middleware.base import Answer, BaseConnMiddleware, BaseMsgMiddleware
from rap.server.middleware.ip import IpBlockMiddleware
from rap.server.middleware.limit import ConnLimitMiddleware, IpMaxConnMiddleware

__all__ = [
    "AccessMsgMiddleware",
    "Answer",
    "BaseConnMiddleware",
    "BaseMsgMiddleware",
    "ConnLimitMiddleware",
    "IpBlockMiddleware",
    "IpMaxConnMiddleware",
]
