"""
A way through an HTTP proxy: an endpoint that asks for a tunnel with CONNECT (RFC 9110, section 9.3.6).
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from relayd.errors import RelayError
from relayd.messages import Secret, printable
from relayd.texts import span

#: Bytes in the longest answer of a proxy that is read.
MAX_RESPONSE: Final = 16 * 1024


class ProxyError(RelayError):
    """the HTTP proxy {proxy} gives no tunnel ({reason})"""

    code = "proxy"
    retriable = True


def authorization(proxy_url: str, password: Secret | None) -> Secret | None:
    """
    The value of ``Proxy-Authorization`` (RFC 7617) for the user in *proxy_url*, if there is one.

    :param password: of that user; ``None``: it is in *proxy_url*.
    """
    parts = urlsplit(proxy_url)
    if parts.username is None:
        return None
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '') if password is None else password.reveal()}"
    return Secret("Basic " + b64encode(pair.encode()).decode())


@implementer(IStreamClientEndpoint)
class TunnelEndpoint:
    """
    :param proxy: an endpoint of the proxy.
    :param proxy_name: its name in errors.
    :param target: ``host:port`` that it shall connect us to.
    :param timeout: seconds that it may take over that.
    """

    def __init__(
        self,
        clock: IReactorTime,
        proxy: IStreamClientEndpoint,
        proxy_name: str,
        target: str,
        credentials: Secret | None,
        timeout: float,
    ) -> None:
        self._clock = clock
        self._proxy = proxy
        self._proxy_name = proxy_name
        self._target = target
        self._credentials = credentials
        self._timeout = timeout

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        Connect a protocol of *protocolFactory* through the tunnel.

        :return: fails with `ProxyError` where the proxy gives none.
        """
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        request = f"CONNECT {self._target} HTTP/1.1\r\nHost: {self._target}\r\n"
        if self._credentials is not None:
            request += f"Proxy-Authorization: {self._credentials.reveal()}\r\n"
        tunnel: Any = await self._proxy.connect(Factory.forProtocol(_Tunnel))
        deadline = self._clock.callLater(self._timeout, tunnel.fail, f"no answer within {span(self._timeout)}")
        try:
            tunnel.transport.write(request.encode() + b"\r\n")
            await tunnel.granted
        except CancelledError:
            tunnel.transport.abortConnection()
            raise
        except _Refused as error:
            raise ProxyError(proxy=self._proxy_name, reason=error.args[0]) from None
        finally:
            if deadline.active():
                deadline.cancel()
        inner = factory.buildProtocol(tunnel.transport.getPeer())
        if inner is None:
            tunnel.transport.abortConnection()
            raise CancelledError
        tunnel.hand_over(inner)
        return inner


class _Refused(Exception):
    """The proxy gives no tunnel: the reason."""


class _Tunnel(Protocol):
    """Waits for the proxy's consent, and then only passes on."""

    transport: Any

    def __init__(self) -> None:
        #: Fires when the tunnel is there, and fails with `_Refused`.
        self.granted: Deferred[None] = Deferred()
        self._inner: IProtocol | None = None
        self._received = b""

    def hand_over(self, inner: IProtocol) -> None:
        """Connect *inner*, with what came behind the consent."""
        self._inner = inner
        inner.makeConnection(self.transport)
        if self._received:
            inner.dataReceived(self._received)
        self._received = b""

    def fail(self, reason: str) -> None:
        """Give up."""
        self._answer(_Refused(reason))
        self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.dataReceived(data)
            return
        self._received += data
        if self.granted.called:
            return
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if not found:
            if len(self._received) > MAX_RESPONSE:
                self.fail("an endless answer")
            return
        status = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        if len(status) < 2 or not status[0].startswith("HTTP/1."):
            self.fail("an answer that is no HTTP")
        elif not status[1].startswith("2"):
            self.fail("HTTP " + printable(" ".join(status[1:]), 100))
        else:
            self._received = rest
            self._answer(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._inner is not None:
            self._inner.connectionLost(reason)
        else:
            self._answer(_Refused("it closed the connection"))

    def _answer(self, refused: _Refused | None) -> None:
        if self.granted.called:
            return
        if refused is None:
            self.granted.callback(None)
        else:
            self.granted.errback(Failure(refused))
