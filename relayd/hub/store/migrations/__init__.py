"""
The versions of the hub's tables, one file of ``versions`` each, which Alembic applies one after the other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sqlalchemy import Column, Connection, MetaData, Table, inspect, select, types

from relayd.hub.store.errors import StoreTooNew, StoreUnusable
from relayd.language.texts import Text

#: The version that this relayd works with: the last in ``versions``.
KNOWN: Final = "0001"
FOLDER: Final = Path(__file__).parent
#: Where Alembic keeps the version of the tables; another program in the same database may have one by the usual name.
VERSION_TABLE: Final = "relayd_hub_version"
_version: Final = Table(VERSION_TABLE, MetaData(), Column("version_num", types.Text))


def migrate(connection: Connection) -> None:
    """
    Bring the tables to the version of this relayd, in the transaction of *connection*.

    :raises StoreTooNew: when they are of a version that this relayd does not know.
    :raises StoreUnusable: when there are tables of another program.
    """
    there = set(inspect(connection).get_table_names())
    found = connection.execute(select(_version.c.version_num)).scalar() if VERSION_TABLE in there else None
    if found == KNOWN:
        return
    if found is not None and found > KNOWN:
        raise StoreTooNew(found=found, known=KNOWN)
    if found is None:
        _check_empty(there)
    _apply(connection)


def _apply(connection: Connection) -> None:
    # Alembic takes a quarter of a second to import, and is of no use to a hub whose tables are what they should be.
    from alembic.config import Config
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("path_separator", "newline")
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    options = {
        "version_table": VERSION_TABLE,
        "transactional_ddl": True,
        "fn": lambda revision, _: scripts._upgrade_revs("head", revision),
    }
    context = MigrationContext.configure(connection, opts=options)
    with Operations.context(context):
        context.run_migrations()


def _check_empty(there: set[str]) -> None:
    from relayd.hub.store.tables import metadata

    if ours := sorted(there & set(metadata.tables)):
        raise StoreUnusable(
            reason=Text(
                "it has tables of another program ({tables}); give the hub a database of its own",
                tables=", ".join(ours[:5]),
            )
        )
