"""The error names of release 0.5.3.8, for `except`; the classes are in `rap.errors`.

The old names stand for wider or narrower classes than before: docs/migration.md has the table.
"""

from rap.errors import CallError as RPCError
from rap.errors import ChannelClosed as ChannelError
from rap.errors import HandlerError as RpcRunTimeError
from rap.errors import InvalidArgument as ParseError
from rap.errors import ProtocolError
from rap.errors import RapError as BaseRapError
from rap.errors import RegistrationError as RegisteredError
from rap.errors import ResourceExhausted as TooManyRequest
from rap.errors import Unauthenticated as AuthError
from rap.errors import Unimplemented as FuncNotFoundError

CryptoError = AuthError
ServerError = RpcRunTimeError

__all__ = [
    "AuthError",
    "BaseRapError",
    "ChannelError",
    "CryptoError",
    "FuncNotFoundError",
    "ParseError",
    "ProtocolError",
    "RPCError",
    "RegisteredError",
    "RpcRunTimeError",
    "ServerError",
    "TooManyRequest",
]
