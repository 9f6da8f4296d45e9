"""
The first tables.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

_Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Go from the version before to this one."""
    op.create_table(
        "credentials",
        sa.Column("id", _Text, nullable=False),
        sa.Column("name", _Text, nullable=False),
        sa.Column("method", _Text, nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credentials")),
        sa.UniqueConstraint("name", name=op.f("uq_credentials_name")),
    )
    op.create_table(
        "relays",
        sa.Column("id", _Text, nullable=False),
        sa.Column("name", _Text, nullable=False),
        sa.Column("enabled", sa.Boolean(), server_default=sa.text("(true)"), nullable=False),
        sa.Column("allowed_networks", _Text, server_default="[]", nullable=False),
        sa.Column("note", _Text, server_default="", nullable=False),
        sa.Column("last_seen_at", sa.BigInteger(), nullable=True),
        sa.Column("last_address", _Text, nullable=True),
        sa.Column("last_dialect", _Text, nullable=True),
        sa.Column("last_version", _Text, nullable=True),
        sa.Column("last_info", _Text, nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_relays")),
        sa.UniqueConstraint("name", name=op.f("uq_relays_name")),
    )
    op.create_table(
        "runs",
        sa.Column("id", _Text, nullable=False),
        sa.Column("created_by", _Text, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("idempotency_key", _Text, nullable=True),
        sa.Column("request_digest", sa.LargeBinary(), nullable=True),
        sa.Column("state", _Text, nullable=False),
        sa.Column("command", _Text, nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("selector", _Text, nullable=False),
        sa.Column("rollout", _Text, nullable=False),
        sa.Column("deliver_until", sa.BigInteger(), nullable=True),
        sa.Column("note", _Text, server_default="", nullable=False),
        sa.Column("output_limit", sa.Integer(), nullable=False),
        sa.Column("rerun_of", _Text, nullable=True),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("counts", _Text, server_default="{}", nullable=False),
        sa.Column("change", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("output_bytes", sa.BigInteger(), nullable=True),
        sa.Column("output_deleted_at", sa.BigInteger(), nullable=True),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
        sa.UniqueConstraint("created_by", "idempotency_key", name=op.f("uq_runs_created_by_idempotency_key")),
    )
    op.create_index(op.f("ix_runs_ended_at"), "runs", ["ended_at"], unique=False)
    op.create_index(
        "ix_runs_open",
        "runs",
        ["state"],
        unique=False,
        sqlite_where=sa.text("state NOT IN ('cancelled', 'failed', 'stopped', 'succeeded')"),
        postgresql_where=sa.text("state NOT IN ('cancelled', 'failed', 'stopped', 'succeeded')"),
    )
    op.create_index(
        "ix_runs_output",
        "runs",
        ["ended_at", "output_bytes"],
        unique=False,
        sqlite_where=sa.text("output_deleted_at IS NULL AND ended_at IS NOT NULL"),
        postgresql_where=sa.text("output_deleted_at IS NULL AND ended_at IS NOT NULL"),
    )
    op.create_index(
        "ix_runs_uncounted",
        "runs",
        ["id"],
        unique=False,
        sqlite_where=sa.text("output_bytes IS NULL AND ended_at IS NOT NULL"),
        postgresql_where=sa.text("output_bytes IS NULL AND ended_at IS NOT NULL"),
    )
    op.create_table(
        "users",
        sa.Column("id", _Text, nullable=False),
        sa.Column("name", _Text, nullable=False),
        sa.Column("password_hash", _Text, nullable=False),
        sa.Column("password_expires_at", sa.BigInteger(), nullable=True),
        sa.Column("role", _Text, nullable=False),
        sa.Column("selectors", _Text, nullable=True),
        sa.Column("enabled", sa.Boolean(), server_default=sa.text("(true)"), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("name", name=op.f("uq_users_name")),
    )
    op.create_table(
        "api_tokens",
        sa.Column("id", _Text, nullable=False),
        sa.Column("user_id", _Text, nullable=False),
        sa.Column("name", _Text, nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", _Text, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("last_used_at", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_api_tokens_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_tokens")),
        sa.UniqueConstraint("digest", name=op.f("uq_api_tokens_digest")),
        sa.UniqueConstraint("user_id", "name", name=op.f("uq_api_tokens_user_id_name")),
    )
    op.create_index(op.f("ix_api_tokens_user_id"), "api_tokens", ["user_id"], unique=False)
    op.create_table(
        "enrolment_tokens",
        sa.Column("id", _Text, nullable=False),
        sa.Column("relay_id", _Text, nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("created_by", _Text, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("used_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["relay_id"], ["relays.id"], name=op.f("fk_enrolment_tokens_relay_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_enrolment_tokens")),
        sa.UniqueConstraint("digest", name=op.f("uq_enrolment_tokens_digest")),
    )
    op.create_index(op.f("ix_enrolment_tokens_relay_id"), "enrolment_tokens", ["relay_id"], unique=False)
    op.create_table(
        "hosts",
        sa.Column("id", _Text, nullable=False),
        sa.Column("name", _Text, nullable=False),
        sa.Column("address", _Text, nullable=False),
        sa.Column("port", sa.Integer(), nullable=False),
        sa.Column("user", _Text, server_default="", nullable=False),
        sa.Column("via", _Text, server_default="", nullable=False),
        sa.Column("host_key", _Text, server_default="", nullable=False),
        sa.Column("credential_id", _Text, nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.ForeignKeyConstraint(
            ["credential_id"], ["credentials.id"], name=op.f("fk_hosts_credential_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hosts")),
        sa.UniqueConstraint("name", name=op.f("uq_hosts_name")),
    )
    op.create_index(op.f("ix_hosts_credential_id"), "hosts", ["credential_id"], unique=False)
    op.create_table(
        "invocations",
        sa.Column("id", _Text, nullable=False),
        sa.Column("run_id", _Text, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("host_id", _Text, nullable=False),
        sa.Column("host_name", _Text, nullable=False),
        sa.Column("host", _Text, nullable=False),
        sa.Column("relay", _Text, nullable=True),
        sa.Column("journal_id", _Text, nullable=True),
        sa.Column("with_result", sa.Boolean(), server_default=sa.text("(false)"), nullable=False),
        sa.Column("state", _Text, nullable=False),
        sa.Column("deadline", sa.BigInteger(), nullable=True),
        sa.Column("sent_at", sa.BigInteger(), nullable=True),
        sa.Column("accepted_at", sa.BigInteger(), nullable=True),
        sa.Column("cancel_asked_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("error_code", _Text, nullable=True),
        sa.Column("error", _Text, nullable=True),
        sa.Column("duration_ms", sa.BigInteger(), nullable=True),
        sa.Column("stdout_kept", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("stderr_kept", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("stdout_size", sa.BigInteger(), nullable=True),
        sa.Column("stderr_size", sa.BigInteger(), nullable=True),
        sa.Column("output_digest", sa.LargeBinary(), nullable=True),
        sa.Column("former_end", _Text, nullable=True),
        sa.Column("rerun_of", _Text, nullable=True),
        sa.Column("change", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_invocations_run_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_invocations")),
        sa.UniqueConstraint("run_id", "position", name=op.f("uq_invocations_run_id_position")),
    )
    op.create_index(
        "ix_invocations_due",
        "invocations",
        ["deadline"],
        unique=False,
        sqlite_where=sa.text(
            "state NOT IN ('cancelled', 'expired', 'failed', 'not-executed', 'refused', 'succeeded', 'timed-out', 'unknown')"
        ),
        postgresql_where=sa.text(
            "state NOT IN ('cancelled', 'expired', 'failed', 'not-executed', 'refused', 'succeeded', 'timed-out', 'unknown')"
        ),
    )
    op.create_index(op.f("ix_invocations_host_id_id"), "invocations", ["host_id", "id"], unique=False)
    op.create_index(
        "ix_invocations_open",
        "invocations",
        ["run_id", "state"],
        unique=False,
        sqlite_where=sa.text(
            "state NOT IN ('cancelled', 'expired', 'failed', 'not-executed', 'refused', 'succeeded', 'timed-out', 'unknown')"
        ),
        postgresql_where=sa.text(
            "state NOT IN ('cancelled', 'expired', 'failed', 'not-executed', 'refused', 'succeeded', 'timed-out', 'unknown')"
        ),
    )
    op.create_index(op.f("ix_invocations_run_id_change"), "invocations", ["run_id", "change"], unique=False)
    op.create_table(
        "relay_keys",
        sa.Column("id", _Text, nullable=False),
        sa.Column("relay_id", _Text, nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.Column("last_used_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["relay_id"], ["relays.id"], name=op.f("fk_relay_keys_relay_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_relay_keys")),
        sa.UniqueConstraint("digest", name=op.f("uq_relay_keys_digest")),
    )
    op.create_index(op.f("ix_relay_keys_relay_id"), "relay_keys", ["relay_id"], unique=False)
    op.create_table(
        "sessions",
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("user_id", _Text, nullable=False),
        sa.Column("address", _Text, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("last_used_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_sessions_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_sessions")),
    )
    op.create_index(op.f("ix_sessions_expires_at"), "sessions", ["expires_at"], unique=False)
    op.create_index(op.f("ix_sessions_user_id"), "sessions", ["user_id"], unique=False)
    op.create_table(
        "host_labels",
        sa.Column("host_id", _Text, nullable=False),
        sa.Column("key", _Text, nullable=False),
        sa.Column("value", _Text, server_default="", nullable=False),
        sa.ForeignKeyConstraint(["host_id"], ["hosts.id"], name=op.f("fk_host_labels_host_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("host_id", "key", name=op.f("pk_host_labels")),
    )
    op.create_index(op.f("ix_host_labels_key_value"), "host_labels", ["key", "value"], unique=False)
    op.create_table(
        "host_relays",
        sa.Column("host_id", _Text, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("relay_id", _Text, nullable=False),
        sa.ForeignKeyConstraint(["host_id"], ["hosts.id"], name=op.f("fk_host_relays_host_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["relay_id"], ["relays.id"], name=op.f("fk_host_relays_relay_id"), ondelete="RESTRICT"),
        sa.PrimaryKeyConstraint("host_id", "position", name=op.f("pk_host_relays")),
        sa.UniqueConstraint("host_id", "relay_id", name=op.f("uq_host_relays_host_id_relay_id")),
    )
    op.create_index(op.f("ix_host_relays_relay_id"), "host_relays", ["relay_id"], unique=False)
    op.create_table(
        "output_chunks",
        sa.Column("invocation_id", _Text, nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("stream", _Text, nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("run_id", _Text, nullable=False),
        sa.Column("change", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["invocation_id"], ["invocations.id"], name=op.f("fk_output_chunks_invocation_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("invocation_id", "sequence", name=op.f("pk_output_chunks")),
    )
    op.create_index(op.f("ix_output_chunks_run_id_change"), "output_chunks", ["run_id", "change"], unique=False)
