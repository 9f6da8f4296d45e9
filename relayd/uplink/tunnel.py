"""
Tunnels through an HTTP proxy: an endpoint that asks for one with CONNECT (RFC 9110, section 9.3.6).
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable
from functools import partial
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from relayd.errors import RelayError
from relayd.language.texts import span
from relayd.uplink.answers import NO_HTTP, HttpResponse, RefusalReader, schemes_of, words_of
from relayd.uplink.autobahn_client import parseHttpHeader
from relayd.uplink.quoting import Quoting
from relayd.uplink.request import MAX_INTERIM, skip_interim
from relayd.wire.messages import Secret

#: Bytes that are read of a proxy's response.
MAX_RESPONSE: Final = 16 * 1024


#: What else may listen there: a web server answers like this.
_OF_NO_PROXY: Final = ("400", "404", "405", "501")
_NO_PROXY: Final = "look at --http-proxy: an HTTP proxy that takes CONNECT has to be there"


class ProxyError(RelayError):
    """the HTTP proxy {proxy} opens no tunnel ({reason})"""

    code = "proxy"
    retriable = True


class ProxyUnreachable(Exception):
    """The proxy *proxy* cannot be reached, because of *cause*."""

    def __init__(self, proxy: str, cause: BaseException) -> None:
        super().__init__(proxy)
        self.proxy = proxy
        self.cause = cause


def authorization(proxy_url: str, password: Secret | None) -> Secret | None:
    """
    The value of ``Proxy-Authorization`` (RFC 7617) for the user in *proxy_url*; ``None`` where it names no user.

    :param password: the user's; ``None``: it is in *proxy_url*.
    """
    parts = urlsplit(proxy_url)
    if parts.username is None:
        return None
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '') if password is None else password.reveal()}"
    return Secret("Basic " + b64encode(pair.encode()).decode())


@implementer(IStreamClientEndpoint)
class TunnelEndpoint:
    """
    An endpoint that connects through an HTTP proxy.

    :param proxy: an endpoint of the proxy.
    :param proxy_name: the proxy's name in errors.
    :param target: ``host:port`` of the server behind it.
    :param credentials: the value of ``Proxy-Authorization``, if there is one.
    :param timeout: seconds that the proxy may take to answer.
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
        secrets = [] if credentials is None else [credentials.reveal().partition(" ")[2]]
        self._quote = Quoting(*secrets, *(b64decode(secret).decode().partition(":")[2] for secret in secrets))

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        Connect a protocol of *protocolFactory* through a tunnel.

        :return: fails with `ProxyError` where the proxy refuses, and with `ProxyUnreachable`.
        """
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        request = f"CONNECT {self._target} HTTP/1.1\r\nHost: {self._target}\r\n"
        if self._credentials is not None:
            request += f"Proxy-Authorization: {self._credentials.reveal()}\r\n"
        try:
            made = Factory.forProtocol(partial(_Tunnel, self._clock, self._quote))
            made.noisy = False  # it logs nothing of use
            tunnel: Any = await self._proxy.connect(made)
        except CancelledError:
            raise
        except Exception as error:
            raise ProxyUnreachable(self._proxy_name, error) from None
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
    """The proxy opens no tunnel, for the reason given."""


class _Tunnel(Protocol):
    """
    Waits for the proxy's consent, and then only passes on what comes.

    :param quote: makes what the proxy says fit to be shown.
    :ivar granted: fires when the tunnel is open, and fails with `_Refused`.
    """

    transport: Any

    def __init__(self, clock: IReactorTime, quote: Callable[[str], str]) -> None:
        self.granted: Deferred[None] = Deferred()
        self._clock = clock
        self._quote = quote
        self._refusal: RefusalReader | None = None
        self._inner: IProtocol | None = None
        self._received = b""
        #: Interim responses so far.
        self._interim = 0

    def hand_over(self, inner: IProtocol) -> None:
        """Connect *inner*, and pass on what came behind the consent."""
        self._inner = inner
        inner.makeConnection(self.transport)
        if self._received:
            inner.dataReceived(self._received)
        self._received = b""

    def fail(self, reason: str) -> None:
        """Give up on the tunnel."""
        self._refuse(reason)
        self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.dataReceived(data)
        elif self._refusal is not None:
            self._refusal.receive(data)
        else:
            self._received += data
            if not self.granted.called:
                self._read_head()

    def _read_head(self) -> None:
        self._received, skipped = skip_interim(self._received)
        self._interim += skipped
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if self._interim >= MAX_INTERIM:
            self.fail("endless interim answers")
        elif not found:
            if len(self._received) > MAX_RESPONSE:
                self.fail("an endless answer")
        else:
            self._received = rest
            self._read_status(head)

    def _read_status(self, head: bytes) -> None:
        status = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        if len(status) < 2 or not status[0].startswith("HTTP/1."):
            self.fail(NO_HTTP)
        elif status[1].startswith("2"):
            self.granted.callback(None)
        else:
            response = HttpResponse(0, " ".join(status[1:]), parseHttpHeader(head)[1])
            self._refusal = RefusalReader(self._clock, response, MAX_RESPONSE, self._refused)
            self._refusal.receive(self._received)

    def _refused(self, response: HttpResponse) -> None:
        words = "HTTP " + self._quote(response.reason)
        if schemes := schemes_of(response.headers.get("proxy-authenticate", "")):
            words += f", which asks for {self._quote(schemes)}"
        if said := self._quote(words_of(response)):
            words += f', it says "{said}"'
        self.fail(f"{words}; {_NO_PROXY}" if response.reason.startswith(_OF_NO_PROXY) else words)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._inner is not None:
            self._inner.connectionLost(reason)
            return
        if self._refusal is not None:
            self._refusal.finish()
        self._refuse(f"it closed the connection; {_NO_PROXY}")

    def _refuse(self, reason: str) -> None:
        if not self.granted.called:
            self.granted.errback(Failure(_Refused(reason)))
