"""
Orders of runs as persons and programs give them: what may be in them, what is secret, and the commands they become.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from hashlib import sha256
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from relayd.errors import InvalidMessage
from relayd.hub.decisions.budget import Budget
from relayd.hub.decisions.rollout import Rollout
from relayd.hub.runs.errors import InvalidOrder
from relayd.hub.runs.interfaces import Login
from relayd.language.texts import Fault, Text, printable
from relayd.wire.messages import Become, ExecuteCommand
from relayd.wire.parsing import parse_execute_command
from relayd.wire.secret import Secret

#: Seconds for a command whose order names none.
DEFAULT_TIMEOUT: Final = 3600.0
#: Seconds that a command may have, and an invocation may wait for its relay.
MAX_TIMEOUT: Final = 7 * 86400.0
MAX_WAIT: Final = 30 * 86400.0
#: Bytes of each output that are kept, a host: where the order does not say, and at most.
DEFAULT_OUTPUT: Final = 1024 * 1024
MAX_OUTPUT: Final = 16 * 1024 * 1024
MAX_NOTE: Final = 2000
MAX_HOSTS: Final = 10_000

_FIELDS_ON_THE_WIRE: Final = ("cwd", "env", "stdin", "encoding", "pty", "become")


class ScriptOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    A script that is run.

    :ivar text: the script itself.
    :ivar interpreter: the program that runs it.
    :ivar args: its arguments.
    """

    text: str
    interpreter: str = "/bin/sh"
    args: tuple[str, ...] = ()


class Order(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """
    A run as it is ordered.

    :ivar command: the text that the login shell gets; or *script*.
    :ivar selector: which hosts (`relayd.hub.decisions.selectors`); or *hosts*, their names.
    :ivar timeout: seconds, from when the relay has it.
    :ivar deliver_within: seconds for which an invocation may wait for its relay; ``None``: it is sent at once or never.
    :ivar concurrency: how many are under way at a time: a number, or per cent of all.
    :ivar ramp: sizes of the first steps.
    :ivar per_relay: how many are under way at one relay, of all runs.
    :ivar per_host: how many are under way on one host, of all runs.
    :ivar max_errors: after how many errors nothing more is sent: a number, or per cent of all.
    :ivar errors_count: the ends that are errors.
    :ivar output_limit: bytes of each output that are kept, a host.
    :ivar live: whether output is shown as it arrives.
    :ivar cwd: as in ``execute_command`` of the protocol, and so are those that follow.
    """

    command: str | None = None
    script: ScriptOrder | None = None
    selector: str = ""
    hosts: tuple[str, ...] = ()
    timeout: float = DEFAULT_TIMEOUT
    deliver_within: float | None = None
    concurrency: int | str | None = None
    ramp: tuple[int, ...] = ()
    per_relay: int | None = None
    per_host: int | None = None
    max_errors: int | str | None = None
    errors_count: tuple[str, ...] | None = None
    note: str = ""
    output_limit: int = DEFAULT_OUTPUT
    live: bool = True
    cwd: str | None = None
    env: dict[str, str] = {}
    stdin: str | dict[str, str] | None = None
    encoding: str | None = None
    pty: bool | dict[str, Any] | None = None
    become: bool | dict[str, Any] | None = None

    def __repr__(self) -> str:  # it may hold secrets
        return "<Order>"


class CheckedOrder(Struct, frozen=True, kw_only=True):
    """
    An order in which everything is valid.

    :ivar template: the command without id and host.
    """

    order: Order
    rollout: Rollout
    budget: Budget
    template: ExecuteCommand

    def __repr__(self) -> str:
        return "<CheckedOrder>"


def check_order(order: Order) -> CheckedOrder:
    """
    Check all of an order but whether there are such hosts.

    :raises InvalidOrder: naming the field at fault.
    """
    _check_what(order)
    _check_numbers(order)
    try:
        rollout = Rollout.parse(
            concurrency=order.concurrency, ramp=order.ramp, per_relay=order.per_relay, per_host=order.per_host
        )
        budget = Budget.parse(most=order.max_errors, counted=order.errors_count)
    except Fault as fault:
        raise InvalidOrder(field=Text("rollout"), reason=fault.text) from None
    return CheckedOrder(order=order, rollout=rollout, budget=budget, template=template_of(order))


def _check_what(order: Order) -> None:
    if (order.command is None) == (order.script is None):
        raise InvalidOrder(field="command", reason=Text("give either command or script"))
    if order.selector and order.hosts:
        raise InvalidOrder(field="hosts", reason=Text("give either selector or hosts"))
    if len(order.hosts) > MAX_HOSTS:
        reason = Text("has {count} names; it may have {most}", count=len(order.hosts), most=MAX_HOSTS)
        raise InvalidOrder(field="hosts", reason=reason)
    if len(order.note) > MAX_NOTE or "\0" in order.note:
        raise InvalidOrder(field="note", reason=Text("is a text of at most {most} characters", most=MAX_NOTE))
    for name in ("selector", *order.hosts):
        if "\0" in (order.selector if name == "selector" else name):
            raise InvalidOrder(field="hosts", reason=Text("a name cannot have a null character"))


def _check_numbers(order: Order) -> None:
    if not 0 < order.timeout <= MAX_TIMEOUT:
        raise InvalidOrder(field="timeout", reason=_seconds(MAX_TIMEOUT))
    if order.deliver_within is not None and not 0 < order.deliver_within <= MAX_WAIT:
        raise InvalidOrder(field="deliverWithin", reason=_seconds(MAX_WAIT))
    if not 0 <= order.output_limit <= MAX_OUTPUT:
        reason = Text("is a number of bytes from 0 to {most}", most=MAX_OUTPUT)
        raise InvalidOrder(field="outputLimit", reason=reason)


def _seconds(most: float) -> Text:
    return Text("is a number of seconds above 0, at most {most}", most=f"{most:.0f}")


def template_of(order: Order) -> ExecuteCommand:
    """
    The command of an order, without id and host; the relay's own rules say what may be in it.

    :raises InvalidOrder: naming the field at fault.
    """
    wire: dict[str, Any] = {"commandId": "-", "host": "-", "port": 22, "username": "-"}
    if order.script is not None:
        wire |= {"script": order.script.text, "interpreter": order.script.interpreter, "args": list(order.script.args)}
    else:
        wire["command"] = order.command
    wire |= {name: value for name in _FIELDS_ON_THE_WIRE if (value := getattr(order, name)) not in (None, {})}
    wire |= {"timeout": order.timeout * 1000, "extended": True, "stream": order.live}
    try:
        return parse_execute_command(wire)
    except InvalidMessage as error:
        reason = error.fields["reason"]
        raise InvalidOrder(field=printable(str(error.fields["field"]), 60), reason=reason) from None


def command_for(template: ExecuteCommand, command_id: str, login: Login) -> ExecuteCommand:
    """The command of one invocation."""
    return replace(
        template,
        command_id=command_id,
        host=login.host,
        port=login.port,
        username=login.username,
        password=login.password,
        private_key=login.private_key,
        passphrase=login.passphrase,
        certificate=login.certificate,
        host_key=login.host_key,
        via=login.via,
    )


# What is kept


class _Secrets(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is secret of an order, as it is sealed."""

    env: tuple[tuple[str, str], ...] = ()
    stdin: str = ""
    stdin_is_text: bool = False
    become_password: str | None = None


def open_part(checked: CheckedOrder, *, has_secrets: bool) -> dict[str, Any]:
    """
    What is stored of an order as it is: nothing that is secret.

    :param has_secrets: whether it has a `secret_part`.
    """
    kept: dict[str, Any] = msgspec.to_builtins(checked.order)
    for name in ("stdin", "hosts", "note", "selector"):
        kept.pop(name, None)
    if checked.order.env:
        kept["env"] = sorted(checked.order.env)
    if isinstance(kept.get("become"), dict):
        kept["become"] = {name: value for name, value in kept["become"].items() if name != "password"}
    if has_secrets:
        kept["secrets"] = True
    return kept


def secret_part(checked: CheckedOrder) -> bytes | None:
    """What is to be sealed of an order; ``None``: nothing."""
    secrets = _secrets_of(checked.template)
    return None if secrets == _Secrets() else msgspec.json.encode(secrets)


def _secrets_of(template: ExecuteCommand) -> _Secrets:
    become = template.become
    password = become.password if isinstance(become, Become) else None
    return _Secrets(
        env=template.env,
        stdin=b64encode(template.stdin).decode(),
        stdin_is_text=template.stdin_is_text and bool(template.stdin),
        become_password=None if password is None else password.reveal(),
    )


def order_of(kept: dict[str, Any]) -> Order:
    """The order of which `open_part` was stored, as far as that has it."""
    fields = {name: value for name, value in kept.items() if name not in ("env", "secrets")}
    return msgspec.convert(fields, Order)


def stored_template(kept: dict[str, Any], secret: bytes | None) -> ExecuteCommand:
    """
    The command of a stored run.

    :param kept: what `open_part` made.
    :param secret: what `secret_part` made.
    """
    template = template_of(order_of(kept))
    if secret is None:
        return template
    secrets = msgspec.json.decode(secret, type=_Secrets)
    become = template.become
    if isinstance(become, Become) and secrets.become_password is not None:
        become = replace(become, password=Secret(secrets.become_password))
    stdin = b64decode(secrets.stdin)
    return replace(template, env=secrets.env, stdin=stdin, stdin_is_text=secrets.stdin_is_text, become=become)


def digest_of(order: Order) -> bytes:
    """Of a request: the same key with another one is noticed by it."""
    return sha256(msgspec.json.encode(msgspec.to_builtins(order), order="deterministic")).digest()
