"""The hub's database: on SQLite, and on a real PostgreSQL server."""
