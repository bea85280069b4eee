"""Middleware of a server: it admits connections, or wraps calls with one response."""

from typing import TYPE_CHECKING

from rap._lazy import Lazy, loader
from rap.server.middleware.base import Answer, BaseConnMiddleware, BaseMsgMiddleware

if TYPE_CHECKING:
    from rap.server.middleware.access import AccessMsgMiddleware
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

_LATER = {
    "AccessMsgMiddleware": "access",
    "ConnLimitMiddleware": "limit",
    "IpBlockMiddleware": "ip",
    "IpMaxConnMiddleware": "limit",
}
__getattr__ = loader(
    __name__, {name: Lazy(f"{__name__}.{file}", name) for name, file in _LATER.items()}
)
