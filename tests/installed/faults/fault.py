"""
One fault: how it is made, and the words by which the relay's log, ``relayctl check`` or the answer to a command name
it, with what to do about it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from msgspec import Struct

from tests.installed.installation import ETC, MAIN_SERVER, UNIT, Installation, run

Make = Callable[[Installation], Awaitable[None]]
#: The file of the API key.
KEY = ETC / "api-key"
#: What ``relayctl check`` says where there are none.
NO_FAULTS = "no faults"


class Fault(Struct, frozen=True, kw_only=True):
    """
    One fault.

    :ivar what: what the operator did.
    :ivar cure: finds in each of these lines what to do about it; empty: it is no fault.
    :ivar make: does it, in an installation that works and whose relay does not run.
    :ivar log: finds the line in the relay's log, or in what systemd logs about its unit, once the relay was started.
    :ivar check: finds the line of ``relayctl check``.
    :ivar command: the fields of a command that is sent then; a function is given the installation.
    :ivar answer: finds its answer.
    :ivar sound: whether the relay is accepted nevertheless.
    """

    what: str
    cure: str = ""
    make: Make | None = None
    log: str = ""
    check: str = ""
    command: dict[str, Any] | None = None
    answer: str = ""
    sound: bool = False

    def __post_init__(self) -> None:
        if not self.cure and (self.log or self.answer or self.check != NO_FAULTS):
            raise ValueError(f"what to do about it? {self.what}")


def options(extra: str = "", **values: str | None) -> Make:
    """Set options, which may have ``{PORT}`` for a port of the main server in them; see `Installation.set_options`."""

    async def make(relay: Installation) -> None:
        ports = {**relay.server.ports, "ssh": relay.host.port}

        def filled(text: str | None) -> str | None:
            for kind, port in ports.items():
                text = None if text is None else text.replace(f"{{{kind}}}", str(port))
            return text

        relay.set_options(extra, **{name: filled(value) for name, value in values.items()})

    return make


def server(url: str, **values: str | None) -> Make:
    """Set --server; ``HOST`` in it is the main server's name."""
    return options(server=f'"{url.replace("HOST", MAIN_SERVER)}"', **values)


def write(path: Path, content: str | bytes, mode: int | None = None) -> Make:
    """Write a file."""

    async def make(relay: Installation) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        if mode is not None:
            path.chmod(mode)

    return make


def for_root_alone(path: Path) -> Make:
    """Take a file from all others."""

    async def make(relay: Installation) -> None:
        path.chmod(0o600)

    return make


def drop_in(text: str) -> Make:
    """Put lines into a drop-in of the unit."""
    return lambda relay: relay.drop_in(f"[Service]\n{text}\n")


async def run_once(relay: Installation) -> None:
    """Let the relay run once, so that it has a state, and knows the host."""
    await relay.start()
    await relay.execute()
    await run("systemctl", "stop", UNIT, check=True)
