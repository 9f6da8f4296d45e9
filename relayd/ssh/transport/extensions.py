"""
The extensions that a server announces (``EXT_INFO``).

Source: RFC 8308, sections 2.3 and 3.1.
"""

from __future__ import annotations

from relayd.ssh.transport.breach import Breach

#: Most extensions, and bytes of all of them, that are read; servers send a few, of some hundred bytes.
MAX_EXTENSIONS = 64
MAX_SIZE = 16 * 1024

SIGNATURE_ALGORITHMS = b"server-sig-algs"


def read_extensions(payload: bytes) -> dict[bytes, bytes]:
    """
    Those extensions that this client uses, by their names.

    :param payload: of an ``EXT_INFO``, without its number.
    :raises Breach: when it is malformed or too large.
    """
    size = len(payload)
    count = int.from_bytes(payload[:4], "big")
    if count > MAX_EXTENSIONS or size > MAX_SIZE:
        raise Breach("{count} extensions of {size} bytes", count=count, size=size)
    fields: list[bytes] = []
    at = 4
    for _ in range(2 * count):
        start = at + 4
        at = start + int.from_bytes(payload[at:start], "big")
        if at > size:
            raise Breach("malformed extensions")
        fields.append(payload[start:at])
    return {name: value for name, value in zip(fields[::2], fields[1::2], strict=True) if name == SIGNATURE_ALGORITHMS}
