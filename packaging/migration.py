"""
Writes the next version of the hub's tables: what has changed in relayd/hub/store/tables.py since the last one.

    migration.py SENTENCE

The first line of the file is SENTENCE. Read what was written: a renamed column, for example, looks like one that is
gone and another that is new, and a changed default of the server is not seen. tests.hub.store.test_migrations tells
whether something is missing.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from alembic.autogenerate import produce_migrations, render_python_code
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from relayd.hub.store.migrations import FOLDER, migrate
from relayd.hub.store.tables import metadata

_TYPE = "sa.Text().with_variant(sa.Text(collation='C'), 'postgresql')"
_FILE = '''"""
{sentence}
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

_Text = {type}

revision = "{revision}"
down_revision = {before}


def upgrade() -> None:
    """Go from the version before to this one."""
    {upgrade}
'''


def main(sentence: str) -> None:
    """Write it."""
    versions = sorted(path.stem.split("_")[0][1:] for path in FOLDER.glob("versions/v*.py"))
    revision = f"{int(versions[-1]) + 1 if versions else 1:04d}"
    with create_engine("sqlite://").begin() as connection:
        if versions:
            migrate(connection)
        options: dict[str, Any] = {
            "target_metadata": metadata,
            "include_name": _is_ours,
            "compare_server_default": True,
        }
        context = MigrationContext.configure(connection, opts=options)
        script = produce_migrations(context, metadata)
    assert script.upgrade_ops is not None
    upgrade = render_python_code(script.upgrade_ops, render_as_batch=bool(versions), migration_context=context)
    before = repr(versions[-1]) if versions else "None"
    upgrade = upgrade.replace(_TYPE, "_Text")
    upgrade = "\n".join(line for line in upgrade.split("\n") if "###" not in line).strip()
    name = "_".join([revision, *re.findall("[a-z]+", sentence.lower())[:4]])
    path = Path(FOLDER, "versions", f"v{name}.py")
    path.write_text(_FILE.format(sentence=sentence, revision=revision, before=before, type=_TYPE, upgrade=upgrade))
    subprocess.run(["ruff", "format", str(path)], check=True)
    print(path)


def _is_ours(name: str | None, kind: str, parents: object) -> bool:
    return kind != "table" or name in metadata.tables


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]))
