"""
What to say where client and server have no algorithm in common: what is missing on which side, and what would help.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from relayd.language.texts import Text, printable_bytes
from relayd.ssh.errors import NoCommonAlgorithm
from relayd.ssh.transport.algorithms import LEGACY
from relayd.ssh.transport.breach import Breach
from relayd.ssh.transport.kexinit import NegotiatedAlgorithms, NothingInCommon
from relayd.ssh.transport.key_exchange_methods import MISSING_LIBRARIES

#: Bytes shown of a list of algorithms; those of OpenSSH and ours have some 500.
MAX_NAMES: Final = 1000


def no_common_algorithm(fault: NothingInCommon, host: str, port: int) -> NoCommonAlgorithm:
    """
    The error for a server with which a key exchange is not possible.

    Where no policy makes it possible, the error shows what is missing under the widest of them, so that nobody tries
    that in vain.
    """
    try:
        found = NegotiatedAlgorithms(fault.payload, LEGACY, LEGACY.host_keys)
    except NothingInCommon as missing:
        return _error(missing, _library(missing), host, port)
    except Breach:
        return _error(fault, _NO_SETTING, host, port)
    advice = Text(
        "With --ssh-algorithms legacy this client would use outdated algorithms here ({names}): choose that for hosts "
        "that have nothing better.",
        names=_shown(sorted(found.names() & LEGACY.outdated)),
    )
    return _error(fault, advice, host, port)


_NO_SETTING = Text("No setting of this client changes that: let the host's SSH server offer one of these, too.")


def _library(missing: NothingInCommon) -> Text:
    """What would help where no policy does."""
    for name in missing.theirs:
        if name in MISSING_LIBRARIES:
            return Text(
                "This client would have {name} if the Python package {library} were installed beside it (pip install "
                "'{library}').",
                name=name.decode("ascii"),
                library=MISSING_LIBRARIES[name],
            )
    return _NO_SETTING


def _error(fault: NothingInCommon, advice: Text, host: str, port: int) -> NoCommonAlgorithm:
    theirs, ours = _shown(fault.theirs), _shown(fault.ours)
    return NoCommonAlgorithm(host=host, port=port, kind=fault.kind, theirs=theirs, ours=ours, advice=advice)


def _shown(names: Sequence[bytes]) -> str:
    return printable_bytes(b", ".join(names), MAX_NAMES)
