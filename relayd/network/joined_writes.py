"""
Writes all that one turn of the event loop says on a connection at once, and straight to the socket.
For both ends of the uplink, and for SSH. It knows nothing of what is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

from twisted.internet.tcp import Connection
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure

from relayd.network.loop_turns import LoopTurns, turns_of

#: Bytes that wait for the end of the turn. More are written at once: a transport has to see when there is too much.
MOST_WAITING: Final = 64 * 1024


def join_writes(transport: Any) -> bool:
    """
    Make *transport* join what one turn of the event loop writes, and write it as soon as the socket takes it.

    Twisted asks the kernel first to say when the socket takes bytes, and then to say so no more: two system calls and
    one more turn for each write. What the socket does not take goes that way still, so producers are paused and resumed
    as before, and errors arrive as before. All that ends a connection comes after what was written before it.

    :param transport: of a protocol that is connected. TCP, and TLS over it, are changed; any other stays as it is.
    :return: whether it was changed.
    """
    secure = isinstance(transport, TLSMemoryBIOProtocol)
    connection = transport.transport if secure else transport
    if not isinstance(connection, Connection) or connection.TLS:
        return False
    turns = turns_of(connection.reactor)
    if turns is None:
        return False
    direct = _Direct(connection).write
    joined = _Joined(transport, partial(TLSMemoryBIOProtocol.write, transport) if secure else direct, turns)
    joined.replace(transport, joined.methods())
    if secure:
        joined.replace(connection, {"write": direct})
    return True


class _Direct:
    """
    Writes to a socket without asking first.

    :param connection: gets what the socket does not take.
    """

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection: Any = connection

    def write(self, data: bytes) -> None:
        connection = self._connection
        waits = connection._tempDataBuffer or connection.dataBuffer or connection.disconnecting
        pulls = connection.producer is not None and not connection.streamingProducer
        if connection.connected and not (waits or pulls or connection._writeDisconnected):
            try:
                sent = connection.socket.send(data)
            except OSError:
                sent = 0  # it is full; or lost, as the reactor will find in its next turn, and say
            if sent == len(data):
                return
            data = data[sent:]
        Connection.write(connection, data)


class _Joined:
    """
    Takes the place of some methods of one transport, until the connection is to end.

    :param send: writes what was joined.
    """

    __slots__ = ("_replaced", "_send", "_size", "_transport", "_turns", "_waiting")

    def __init__(self, transport: Any, send: Callable[[bytes], None], turns: LoopTurns) -> None:
        self._transport = transport
        self._send = send
        self._turns = turns
        self._waiting: list[bytes] = []
        self._size = 0
        #: What was replaced where, and what stood there before: TLS itself replaces the ``write`` of its class.
        self._replaced: list[tuple[dict[str, Any], tuple[str, ...], dict[str, Any]]] = []

    def methods(self) -> dict[str, Callable[..., None]]:
        """What takes the place of the methods with these names."""
        # Not an attribute: through it, this would hold itself.
        return {
            "write": self._write,
            "writeSequence": self._write_sequence,
            "loseConnection": self._lose,
            "abortConnection": self._abort,
            "unregisterProducer": self._unregister,
            "connectionLost": self._lost,
        }

    def replace(self, owner: object, methods: dict[str, Callable[..., None]]) -> None:
        """Put *methods* in place of those of *owner*, until the connection is to end."""
        own = vars(owner)
        before = {name: own[name] for name in methods if name in own}
        self._replaced.append((own, tuple(methods), before))
        own.update(methods)

    def _write(self, data: bytes) -> None:
        if not self._waiting:
            self._turns.call_at_end(self._flush)
        self._waiting.append(data)
        self._size += len(data)
        if self._size >= MOST_WAITING:
            self._flush()

    def _write_sequence(self, pieces: Iterable[bytes]) -> None:
        self._write(b"".join(pieces))

    def _flush(self) -> None:
        waiting = self._waiting
        if waiting:
            self._waiting, self._size = [], 0
            self._send(waiting[0] if len(waiting) == 1 else b"".join(waiting))

    def _lose(self, *args: object) -> None:
        self._flush()
        self._withdraw()
        self._transport.loseConnection(*args)

    def _abort(self) -> None:
        self._waiting.clear()
        self._withdraw()
        self._transport.abortConnection()

    def _unregister(self) -> None:
        self._flush()
        type(self._transport).unregisterProducer(self._transport)

    def _lost(self, reason: Failure) -> None:
        self._waiting.clear()
        self._withdraw()
        self._transport.connectionLost(reason)

    def _withdraw(self) -> None:
        """Make the transport as it was: Twisted sees to the end, and nothing holds what has ended."""
        replaced, self._replaced = self._replaced, []  # to write may end the connection: this may be the second call
        for own, names, before in replaced:
            for name in names:
                del own[name]
            own.update(before)
