"""
What ends a connection, as the error that its user gets: the one place where faults of the parts become errors.
"""

from __future__ import annotations

from typing import Final

from relayd.language.texts import Text
from relayd.ssh.errors import (
    ConnectionDropped,
    KeyExchangeFailed,
    LoginDropped,
    NotSSH,
    ProtocolBroken,
    SSHError,
)
from relayd.ssh.transport.breach import Breach, LibraryGone
from relayd.ssh.transport.ciphers import BadPacket
from relayd.ssh.transport.kexinit import NothingInCommon
from relayd.ssh.transport.no_common_algorithm import no_common_algorithm
from relayd.ssh.transport.session_keys import BadProof
from relayd.ssh.transport.version_exchange import NOTHING, NoVersion

#: Bytes shown of what a server says: lists of algorithms are long.
MAX_SHOWN: Final = 300
#: What the parts of a transport raise. Anything else comes from bytes that nobody foresaw.
KNOWN_FAULTS: Final = (SSHError, NoVersion, NothingInCommon, BadProof, BadPacket, Breach, LibraryGone)


def error_of(fault: Exception, host: str, port: int, *, secured: bool) -> SSHError:
    """
    The error for a fault in what a server sent.

    :param secured: whether the first key exchange had ended.
    """
    if isinstance(fault, SSHError):
        return fault.with_traceback(None)  # which holds what was received
    if isinstance(fault, NoVersion):
        return NotSSH(host=host, port=port, reason=fault.text)
    if isinstance(fault, NothingInCommon):
        return no_common_algorithm(fault, host, port)
    if isinstance(fault, BadProof | LibraryGone):
        return KeyExchangeFailed(host=host, port=port, reason=fault.text)
    if isinstance(fault, BadPacket):
        reason = Text("it sent a packet with a {fault}", fault=fault.text)
    elif isinstance(fault, Breach):
        reason = Text("it sent {what}", what=fault.text)
    else:
        reason = Text("it sent a malformed packet")
    kind = ProtocolBroken if secured else KeyExchangeFailed
    return kind(host=host, port=port, reason=reason)


def error_of_close(host: str, port: int, reason: str, *, instead: Text | None, secured: bool) -> SSHError:
    """
    The error for a connection that the server closed.

    :param reason: what it said about that.
    :param instead: what it said instead of its version; ``None``: its version had come.
    :param secured: whether the first key exchange had ended.
    """
    if secured:
        return LoginDropped(host=host, port=port, reason=reason)
    if instead is None:
        return ConnectionDropped(host=host, port=port, step=Text("key exchange"), reason=reason)
    # OpenSSL closes without an alert when what comes is no TLS.
    words = Text("it said nothing, as servers that expect TLS do") if instead is NOTHING else instead
    return ConnectionDropped(host=host, port=port, step=Text("first contact"), reason=words)
