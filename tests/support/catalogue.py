"""
Finds the texts that are to be translated: for Babel, which ``make messages`` runs (``babel.cfg`` names this module).

The docstrings of errors are templates, as `relayd.errors` says; others stand where a `Text` or `Fault` is made.
"""

from __future__ import annotations

import ast
import errno
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import IO, Any

import relayd.hub.inventory.logins
import relayd.hub.inventory.texts
import relayd.ssh.client
import relayd.ssh.errors
import relayd.wire.parsing
from relayd import errors
from relayd.language.texts import Fault, message_template
from relayd.uplink.tunnel import ProxyError

#: What only the relay's operator sees: no relay sends it to a main server.
OPERATORS_ONLY: tuple[type[errors.RelayError], ...] = (
    errors.ConfigError,
    errors.ProtocolError,
    errors.UplinkError,
    errors.NoJournal,
    ProxyError,
    errors.HostFailure,  # says what the error says that it stands for
)
#: What the system says of files and connections.
SYSTEM_ERRORS = (
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENOSPC, errno.EROFS, errno.EIO),
    *(errno.EMFILE, errno.ENFILE, errno.ECONNREFUSED, errno.ECONNRESET, errno.ETIMEDOUT, errno.EHOSTUNREACH),
    *(errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL, errno.EINVAL, errno.EPIPE),
)

Tree = type[errors.RelayError] | type[relayd.ssh.errors.SSHError]


def kinds(*roots: type[Any]) -> Iterator[type[Any]]:
    """The classes and all of relayd that derive from them: tests have some of their own."""
    for root in roots:
        if root.__module__.startswith("relayd."):
            yield root
        yield from kinds(*root.__subclasses__())


def errors_for_main_servers() -> list[Tree]:
    """Every error class of both trees whose text can reach a main server."""
    # Those of the hub are its own, whichever of them are imported.
    return [
        kind
        for kind in kinds(errors.RelayError, relayd.ssh.errors.SSHError)
        if not issubclass(kind, OPERATORS_ONLY) and not kind.__module__.startswith("relayd.hub.")
    ]


def extract(
    file: IO[bytes], keywords: Collection[str], tags: Collection[str], options: Mapping[str, Any]
) -> Iterable[tuple[int, None, str, list[str]]]:
    """The line and text of each message, as Babel wants them (``babel.messages.extract``)."""
    templates = {kind.__name__ for kind in errors_for_main_servers()}
    # Those of the hub's decisions are shown in English, whether they are imported or not.
    faults = [
        kind for kind in kinds(*Fault.__subclasses__()) if not kind.__module__.startswith("relayd.hub.decisions.")
    ]
    makers = {"Text"} | {kind.__name__ for kind in faults}
    for node in ast.walk(ast.parse(file.read())):
        if isinstance(node, ast.ClassDef) and node.name in templates and file.name.endswith("errors.py"):
            yield node.lineno, None, message_template(ast.get_docstring(node) or ""), []
        # without arguments: a type of SQLAlchemy
        elif isinstance(node, ast.Call) and node.args and _name(node.func) in makers:
            *_field, template = node.args
            if isinstance(template, ast.Constant):
                yield node.lineno, None, str(template.value), []
    if file.name.endswith("texts.py"):
        for number in SYSTEM_ERRORS:
            yield 1, None, os.strerror(number), ["what the system says"]


def _name(function: ast.expr) -> str:
    return getattr(function, "attr", "") or getattr(function, "id", "")
