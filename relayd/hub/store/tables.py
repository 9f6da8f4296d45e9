"""
The hub's tables, for SQLite and PostgreSQL.

Times are microseconds since 1970, UTC.  Ids are texts (`relayd.hub.store.ids`), which sort by the time when they were
made, so that a list in the order of its ids is a list by time and pages by a cursor on its key.  ``version`` grows with
each change of a row and is the row's ``ETag``.  Digests are SHA-256 of secrets of 256 random bits.  Columns with JSON
hold what `msgspec` writes and are never searched.  Texts are compared by their bytes, in UTF-8, by both databases.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    TextClause,
    UniqueConstraint,
    text,
)

from relayd.hub.decisions.states import ENDS, RUN_ENDS, InvocationState, RunState

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


#: PostgreSQL would sort by the rules of a language, which change with the system's library and break indexes then.
_Text: Final = Text().with_variant(Text(collation="C"), "postgresql")


def _id() -> Column[str]:
    return Column("id", _Text, primary_key=True)


def _time(name: str, null: bool = False) -> Column[int]:
    return Column(name, BigInteger, nullable=null)


def _version() -> Column[int]:
    return Column("version", Integer, nullable=False, server_default="1")


def _not_among(column: str, states: frozenset[InvocationState] | frozenset[RunState]) -> TextClause:
    """The rows that have not ended; an index of them stays small however much history there is."""
    return text(f"{column} NOT IN ({', '.join(repr(str(state)) for state in sorted(states))})")


# Relays

relays: Final = Table(
    "relays",
    metadata,
    _id(),
    #: Its ``proxyId``.
    Column("name", _Text, nullable=False, unique=True),
    Column("enabled", Boolean, nullable=False, server_default=text("true")),
    #: JSON: the networks (CIDR) that it may come from; an empty list: any.
    Column("allowed_networks", _Text, nullable=False, server_default="[]"),
    Column("note", _Text, nullable=False, server_default=""),
    #: The last connection: when it was there last, from where, and what the relay told of itself.
    _time("last_seen_at", null=True),
    Column("last_address", _Text),
    Column("last_dialect", _Text),
    Column("last_version", _Text),
    #: JSON of its answer to ``relay_info``; null: it gave none.
    Column("last_info", _Text),
    _time("created_at"),
    _version(),
)

relay_keys: Final = Table(
    "relay_keys",
    metadata,
    _id(),
    Column("relay_id", _Text, ForeignKey("relays.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("digest", LargeBinary, nullable=False, unique=True),
    _time("created_at"),
    #: When it stops being good, after a rotation.
    _time("expires_at", null=True),
    _time("revoked_at", null=True),
    _time("last_used_at", null=True),
)

enrolment_tokens: Final = Table(
    "enrolment_tokens",
    metadata,
    _id(),
    Column("relay_id", _Text, ForeignKey("relays.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("digest", LargeBinary, nullable=False, unique=True),
    Column("created_by", _Text, nullable=False),
    _time("created_at"),
    _time("expires_at"),
    _time("used_at", null=True),
)

# Inventory

credentials: Final = Table(
    "credentials",
    metadata,
    _id(),
    Column("name", _Text, nullable=False, unique=True),
    #: ``password``, ``key``, ``certificate`` or ``at-the-site``.
    Column("method", _Text, nullable=False),
    #: What is secret, sealed by `relayd.hub.inventory.sealing`; null where the relay's own table has it.
    Column("sealed", LargeBinary),
    _time("created_at"),
    _version(),
)

hosts: Final = Table(
    "hosts",
    metadata,
    _id(),
    Column("name", _Text, nullable=False, unique=True),
    Column("address", _Text, nullable=False),
    Column("port", Integer, nullable=False),
    Column("user", _Text, nullable=False, server_default=""),
    #: The jump host as the protocol's ``via`` has it.
    Column("via", _Text, nullable=False, server_default=""),
    #: The expected host key, as in ``known_hosts`` or a SHA256 fingerprint.
    Column("host_key", _Text, nullable=False, server_default=""),
    Column("credential_id", _Text, ForeignKey("credentials.id", ondelete="RESTRICT"), index=True),
    _time("created_at"),
    _version(),
)

#: Labels of hosts; a group is a label with an empty value.
host_labels: Final = Table(
    "host_labels",
    metadata,
    Column("host_id", _Text, ForeignKey("hosts.id", ondelete="CASCADE"), nullable=False),
    Column("key", _Text, nullable=False),
    Column("value", _Text, nullable=False, server_default=""),
    PrimaryKeyConstraint("host_id", "key"),
    Index(None, "key", "value"),
)

#: The relays that reach a host, in the order in which they are tried.
host_relays: Final = Table(
    "host_relays",
    metadata,
    Column("host_id", _Text, ForeignKey("hosts.id", ondelete="CASCADE"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("relay_id", _Text, ForeignKey("relays.id", ondelete="RESTRICT"), nullable=False, index=True),
    PrimaryKeyConstraint("host_id", "position"),
    UniqueConstraint("host_id", "relay_id"),
)

# Runs

runs: Final = Table(
    "runs",
    metadata,
    _id(),
    #: Who ordered it: ``user:NAME`` or ``token:USER/NAME``.
    Column("created_by", _Text, nullable=False),
    _time("created_at"),
    Column("idempotency_key", _Text),
    #: SHA-256 of the request, so that the same key with another request is noticed.
    Column("request_digest", LargeBinary),
    Column("state", _Text, nullable=False),
    #: JSON: the command or script and its options, without what is secret.
    Column("command", _Text, nullable=False),
    #: What is secret of it (standard input, passwords, variables), sealed; deleted when the run ends.
    Column("sealed", LargeBinary),
    #: The selector as it was written; the hosts that it meant are the invocations.
    Column("selector", _Text, nullable=False),
    #: JSON: concurrency, ramp, limits, error budget (`relayd.hub.decisions`).
    Column("rollout", _Text, nullable=False),
    #: Until when an invocation may wait for its relay; null: it is sent at once or not at all.
    _time("deliver_until", null=True),
    Column("note", _Text, nullable=False, server_default=""),
    #: Bytes of each output that are kept, a host.
    Column("output_limit", Integer, nullable=False),
    Column("rerun_of", _Text),
    Column("size", Integer, nullable=False),
    #: JSON: how many invocations are in each state; exact once the run has ended.
    Column("counts", _Text, nullable=False, server_default="{}"),
    #: The last number given to a change of its invocations and outputs.
    Column("change", BigInteger, nullable=False, server_default="0"),
    _time("ended_at", null=True),
    #: Bytes of output that its invocations keep; null: retention has not counted them yet.
    Column("output_bytes", BigInteger),
    _time("output_deleted_at", null=True),
    _version(),
    UniqueConstraint("created_by", "idempotency_key"),
)
Index(
    "ix_runs_open",
    runs.c.state,
    sqlite_where=_not_among("state", RUN_ENDS),
    postgresql_where=_not_among("state", RUN_ENDS),
)
#: What retention asks: which runs are old, and which outputs are kept and how large they are.
Index(None, runs.c.ended_at)
Index(
    "ix_runs_output",
    runs.c.ended_at,
    runs.c.output_bytes,
    sqlite_where=text("output_deleted_at IS NULL AND ended_at IS NOT NULL"),
    postgresql_where=text("output_deleted_at IS NULL AND ended_at IS NOT NULL"),
)
Index(
    "ix_runs_uncounted",
    runs.c.id,
    sqlite_where=text("output_bytes IS NULL AND ended_at IS NOT NULL"),
    postgresql_where=text("output_bytes IS NULL AND ended_at IS NOT NULL"),
)

invocations: Final = Table(
    "invocations",
    metadata,
    #: The ``commandId``: an invocation is one attempt, and a rerun is another invocation.
    _id(),
    Column("run_id", _Text, ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
    Column("position", Integer, nullable=False),
    #: The host as it was when the run was ordered; it may have been deleted since.
    Column("host_id", _Text, nullable=False),
    Column("host_name", _Text, nullable=False),
    #: JSON: address, port, user, via, host key, credential's id, and the relays in order.
    Column("host", _Text, nullable=False),
    #: The relay that it was sent to, by name; null: to none yet.
    Column("relay", _Text),
    #: The name of that relay's journal then: it is sent again only to the same one, which joins it with what it has. A
    #: new machine of that name, or a second one, would run it once more. Null: none is known; nothing is sent twice.
    Column("journal_id", _Text),
    #: Whether a result has said how it ended, which is final; else the hub has said so.
    Column("with_result", Boolean, nullable=False, server_default=text("false")),
    Column("state", _Text, nullable=False),
    #: When the state that it is in is over; null: when the run says.
    _time("deadline", null=True),
    _time("sent_at", null=True),
    _time("accepted_at", null=True),
    _time("cancel_asked_at", null=True),
    _time("ended_at", null=True),
    Column("exit_code", Integer),
    #: The relay's code for a failure, such as ``connect-failed``, and its words or ours.
    Column("error_code", _Text),
    Column("error", _Text),
    #: Milliseconds that the command took, as the relay measured it.
    Column("duration_ms", BigInteger),
    #: Bytes of each output that are kept, and that the command wrote as far as that is known.
    Column("stdout_kept", BigInteger, nullable=False, server_default="0"),
    Column("stderr_kept", BigInteger, nullable=False, server_default="0"),
    Column("stdout_size", BigInteger),
    Column("stderr_size", BigInteger),
    #: SHA-256 of both outputs, by which hosts with the same output are found.
    Column("output_digest", LargeBinary),
    #: The end that it had before a result came that knew better: ``unknown``, or one that the result contradicts.
    Column("former_end", _Text),
    #: The invocation that it repeats.
    Column("rerun_of", _Text),
    #: The number of its last change in its run.
    Column("change", BigInteger, nullable=False),
    UniqueConstraint("run_id", "position"),
    Index(None, "run_id", "change"),
    Index(None, "host_id", "id"),
)
#: What the sweeper asks.
Index(
    "ix_invocations_due",
    invocations.c.deadline,
    sqlite_where=_not_among("state", ENDS),
    postgresql_where=_not_among("state", ENDS),
)
#: What is asked when the hub starts, and when a relay joins.
Index(
    "ix_invocations_open",
    invocations.c.run_id,
    invocations.c.state,
    sqlite_where=_not_among("state", ENDS),
    postgresql_where=_not_among("state", ENDS),
)

output_chunks: Final = Table(
    "output_chunks",
    metadata,
    Column("invocation_id", _Text, ForeignKey("invocations.id", ondelete="CASCADE"), nullable=False),
    #: From 0, in the order of arrival of both streams.
    Column("sequence", Integer, nullable=False),
    #: ``stdout`` or ``stderr``.
    Column("stream", _Text, nullable=False),
    #: Bytes of its stream before it.
    Column("offset", BigInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("run_id", _Text, nullable=False),
    #: The number of its change in its run.
    Column("change", BigInteger, nullable=False),
    PrimaryKeyConstraint("invocation_id", "sequence"),
    Index(None, "run_id", "change"),
)

# Access

users: Final = Table(
    "users",
    metadata,
    _id(),
    Column("name", _Text, nullable=False, unique=True),
    #: argon2id, in the PHC format.
    Column("password_hash", _Text, nullable=False),
    #: When the password, which somebody else chose, can no longer be used, and until then only to choose another one;
    #: null: the user chose it.
    _time("password_expires_at", null=True),
    #: ``viewer``, ``operator`` or ``admin``.
    Column("role", _Text, nullable=False),
    #: JSON: the selectors that an operator is limited to; null: all hosts.
    Column("selectors", _Text),
    Column("enabled", Boolean, nullable=False, server_default=text("true")),
    _time("created_at"),
    _version(),
)

sessions: Final = Table(
    "sessions",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("user_id", _Text, ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("address", _Text, nullable=False),
    _time("created_at"),
    _time("last_used_at"),
    Column("expires_at", BigInteger, nullable=False, index=True),
)

api_tokens: Final = Table(
    "api_tokens",
    metadata,
    _id(),
    Column("user_id", _Text, ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("name", _Text, nullable=False),
    Column("digest", LargeBinary, nullable=False, unique=True),
    #: JSON: its scopes.
    Column("scopes", _Text, nullable=False),
    _time("created_at"),
    _time("expires_at", null=True),
    _time("last_used_at", null=True),
    _time("revoked_at", null=True),
    UniqueConstraint("user_id", "name"),
)
