"""
Commands for network devices: from what the main server orders to the lines that a device gets.
"""

from __future__ import annotations

import re
from typing import Final

from relayd.errors import DeviceLines, FieldUnsupported, PtyUnsupported
from relayd.language.charsets import Unwritable, write_text
from relayd.network.host_rules import HostSettings
from relayd.ssh.device.run import DeviceRequest
from relayd.ssh.login.site_credentials import first_line
from relayd.ssh.target import Target
from relayd.wire.messages import ExecuteCommand

#: What the keyboard of a terminal does not send as text: a device would complete a word, or end a command.
_CONTROLS: Final = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
#: Asks for help in most families, is then gone, and what stands around it is one word: rules would see another text.
_HELP: Final = "?"


def is_device(site: HostSettings) -> bool:
    """Whether a host is a network device."""
    return site.shell == "device"


def lines_of(command: ExecuteCommand, site: HostSettings, charset: str, *, exactly: bool) -> tuple[bytes, ...]:
    """
    The lines of a command, as the device gets them.

    :param charset: that of the device, by its name in `relayd.language.charsets`.
    :param exactly: whether the device must read what the site's rules saw.
    :raises RelayError: when a device cannot be given the command.
    """
    for field in ("cwd", "env", "stdin", "become", "script", "files", "fetch"):
        if getattr(command, field):
            raise FieldUnsupported(field=field, host=command.written_host)
    if command.pty:
        raise PtyUnsupported(host=command.written_host)
    text = command.command.replace("\r\n", "\n").strip("\n")
    if control := _CONTROLS.search(text):
        raise DeviceLines(character=f"U+{ord(control[0]):04X}")
    if _HELP in text and (exactly or site.family not in (None, "generic")):
        raise DeviceLines(character=_HELP)
    try:
        return tuple(write_text(text, charset, exactly=exactly).split(b"\n"))
    except Unwritable:
        raise DeviceLines(character=charset) from None


def request_of(
    command: ExecuteCommand,
    target: Target,
    site: HostSettings,
    lines: tuple[bytes, ...],
    deadline: float,
    timeout: float,
) -> DeviceRequest:
    """
    What the device is to carry out.

    :param lines: see `lines_of`.
    :raises SSHError: when the file of the secret for the privileged mode cannot be used.
    """
    become = site.become if command.become is None else None
    secret = None
    # A login that the main server brings may lead anywhere: the site's secret goes only where its own credential does.
    if target.site and become is not None and become.method == "enable" and become.password_file is not None:
        secret = first_line(become.password_file).encode()
    return DeviceRequest(
        target=target,
        family=site.family or "generic",
        lines=lines,
        secret=secret,
        deadline=deadline,
        timeout=timeout,
        most_sessions=site.max_connections or 1,
        most_commands=site.commands_per_connection,
    )
