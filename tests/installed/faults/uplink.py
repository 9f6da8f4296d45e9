"""
Faults on the way to the main server.
"""

from __future__ import annotations

from pathlib import Path

from tests.installed.faults.fault import Fault, Make, drop_in, for_root_alone, options, server, write
from tests.installed.installation import ETC, Installation


async def _no_authority(relay: Installation) -> None:
    (ETC / "ca.pem").unlink()


def clock(when: str) -> Make:
    """Another time of day in the relay."""
    [library] = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    return drop_in(f'Environment=LD_PRELOAD={library} "FAKETIME={when}"')


UPLINK = (
    Fault(
        what="ws:// at a TLS port",
        cure="use wss://",
        make=server("ws://HOST:{good}", allow_plaintext="true"),
        log="closed the connection without an answer, as a TLS port does; .*use wss://",
        check="fault .*as a TLS port does; .*use wss://",
    ),
    Fault(
        what="wss:// at the port of an SSH server",
        cure="look at .*--server",
        make=server("wss://HOST:{ssh}"),
        log="look at .*--server",
        check="fault .*look at .*--server",
    ),
    Fault(
        what="a port where nothing listens",
        cure="look at the port in --server",
        make=server("wss://HOST:9"),
        log="connection refused; nothing listens there.*look at the port in --server",
        check="fault .*look at the port in --server",
    ),
    Fault(
        what="a mistyped name",
        cure="(look at|check) --server",
        make=server("wss://mian.example.test"),
        log="its name was not found; look at --server",
        check="fault .*mian.example.test cannot be looked up .*check --server",
    ),
    Fault(
        what="an address without a route",
        cure="look at --server and at the routes",
        make=server("wss://10.9.8.7"),
        log="Network is unreachable; look at --server and at the routes",
        check="fault .*look at --server and at the routes",
    ),
    Fault(
        what="a path that the main server has not",
        cure="look at --server, which usually has no path of its own",
        make=server("wss://HOST:{good}/wrong"),
        log="neither dialect.*/wrong/socket.io/: HTTP 404",
        check="fault .*/wrong/socket.io/: HTTP 404",
    ),
    Fault(
        what="a certificate that has expired",
        cure="replace the certificate",
        make=server("wss://HOST:{expired}"),
        log="has expired: it is valid from .*replace the certificate; if not, set the clock",
        check="fault .*has expired: .*replace the certificate",
    ),
    Fault(
        what="a certificate that signs itself",
        cure="add it to that file",
        make=server("wss://HOST:{self-signed}"),
        log="is self-signed, .*add it to that file",
        check="fault .*is self-signed, .*add it to that file",
    ),
    Fault(
        what="a certificate for another name",
        cure="write a name that it has in --server",
        make=server("wss://HOST:{other-name}"),
        log="it names other.example.test, not main.example.test; write a name that it has in --server",
        check="fault .*write a name that it has in --server",
    ),
    Fault(
        what="a clock that is years behind",
        cure="set the clock",
        make=clock("2020-01-01 12:00:00"),
        log="is not yet valid: .*the clock of this machine says 2020-01-01.*set the clock",
    ),
    Fault(
        what="an authority of one's own that is not named",
        cure="name a file with its certificate in --tls-ca",
        make=options(tls_ca=None),
        log="not among the authorities of this machine.*name a file with its certificate in --tls-ca",
        check="fault .*name a file with its certificate in --tls-ca",
    ),
    Fault(
        what="no file of authorities",
        cure="name one that is there",
        make=_no_authority,
        log="tls-ca in /etc/relayd/relayd.toml: there is no file /etc/relayd/ca.pem",
        check="fault .*there is no file /etc/relayd/ca.pem",
    ),
    Fault(
        what="a file of authorities that is no PEM",
        cure="it must have -----BEGIN CERTIFICATE-----",
        make=write(ETC / "ca.pem", "hello\n"),
        log="ca.pem holds no PEM certificate; it must have -----BEGIN CERTIFICATE-----",
        check="fault .*holds no PEM certificate; it must have",
    ),
    Fault(
        what="a file of authorities for root alone",
        cure=r"relayd's user has to read it|chmod a\+r it",
        make=for_root_alone(ETC / "ca.pem"),
        log="ca.pem cannot be read: Permission denied; relayd's user has to read it",
        check="fault .*--tls-ca: the user of relayd.service cannot read /etc/relayd/ca.pem: chmod a",
    ),
    Fault(
        what="a proxy where nothing listens",
        cure="look at the port in --http-proxy",
        make=options(http_proxy='"http://127.0.0.1:9"'),
        log="the HTTP proxy http://127.0.0.1:9 cannot be reached: .*look at the port in --http-proxy",
        check="fault .*look at the port in --http-proxy",
    ),
    Fault(
        what="a proxy that is none",
        cure="look at --http-proxy",
        make=options(http_proxy='"http://127.0.0.1:{ssh}"'),
        log="opens no tunnel .*look at --http-proxy",
        check="fault .*opens no tunnel .*look at --http-proxy",
    ),
)
