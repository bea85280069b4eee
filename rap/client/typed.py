"""What type checkers know of channel stubs, and of the items that a call in a session returns.

The other stubs have their types where they are made; sessions need these two, and import no stubs.
"""

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, Self, TypeVar

from rap.address import Peer
from rap.call import Header

__all__ = ["ChannelStub", "Items"]

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
In_co = TypeVar("In_co", covariant=True)
Out_contra = TypeVar("Out_contra", contravariant=True)
T_co = TypeVar("T_co", covariant=True)


class ChannelStub(Protocol[P, R_co, In_co, Out_contra]):
    """The stub of a channel function, which runs with a `Channel` that the stub opens."""

    __name__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]:
        """Return the call: it opens the channel and runs the function when it is awaited."""
        ...

    if TYPE_CHECKING:  # the types of messages, for `Client.channel`

        def __rap_messages__(self, written: Out_contra, /) -> In_co: ...


class Items(Protocol[T_co]):
    """The items that a remote generator yields, as `ResponseStream` has them."""

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> T_co: ...

    async def aclose(self) -> None:
        """End the remote generator."""
        ...

    def cancel(self) -> bool:
        """End the call; return `False` if it has ended already."""
        ...

    def done(self) -> bool:
        """Return whether the call has ended; items that have arrived may be left."""
        ...

    @property
    def header(self) -> Header:
        """The header of the answer."""
        ...

    @property
    def trailer(self) -> Header:
        """The trailer of the answer."""
        ...

    @property
    def peer(self) -> Peer | None:
        """The server of the last attempt; `None` before the first."""
        ...

    @property
    def attempts(self) -> int:
        """The number of attempts, from 1."""
        ...
