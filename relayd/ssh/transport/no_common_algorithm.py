"""
What to say where client and server have no algorithm in common: what is missing on which side, and what would help.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from relayd.language.texts import printable_bytes
from relayd.ssh.errors import LibraryMissing, NoCommonAlgorithm, OutdatedInCommon
from relayd.ssh.transport.algorithms import LEGACY
from relayd.ssh.transport.kexinit import NegotiatedAlgorithms, NothingInCommon
from relayd.ssh.transport.key_exchange_methods import MISSING_LIBRARIES

#: Bytes shown of a list of algorithms; those of OpenSSH and ours have some 500.
MAX_NAMES: Final = 1000


def no_common_algorithm(fault: NothingInCommon, host: str, port: int) -> NoCommonAlgorithm:
    """
    The error for a server with which no key exchange is possible.

    Where no policy makes it possible, the error shows what is missing under the widest of them, so that nobody tries
    that in vain.
    """
    where = {"host": host, "port": port}
    try:
        found = NegotiatedAlgorithms(fault.payload, LEGACY, LEGACY.host_keys)
    except NothingInCommon as missing:
        for name in missing.theirs:
            if name in MISSING_LIBRARIES:
                other = _missing_beside(name, fault.payload)
                if other is None:
                    library = MISSING_LIBRARIES[name]
                    return LibraryMissing(**where, **_offers(missing), name=name.decode("ascii"), library=library)
                missing = other
                break
        return NoCommonAlgorithm(**where, **_offers(missing))
    names = _shown(sorted(found.names() & LEGACY.outdated))
    return OutdatedInCommon(**where, **_offers(fault), names=names)


def _missing_beside(key_exchange: bytes, payload: bytes) -> NothingInCommon | None:
    """What would still not be in common if this client had a key exchange that it lacks."""
    policy = replace(LEGACY, key_exchanges=(*LEGACY.key_exchanges, key_exchange))
    try:
        NegotiatedAlgorithms(payload, policy, policy.host_keys)
    except NothingInCommon as missing:
        return missing
    return None


def _offers(fault: NothingInCommon) -> dict[str, str]:
    return {"kind": fault.kind, "theirs": _shown(fault.theirs), "ours": _shown(fault.ours)}


def _shown(names: Sequence[bytes]) -> str:
    return printable_bytes(b", ".join(names), MAX_NAMES)
