"""
What the hub keeps: tables, their migrations, and the queries, on SQLite or PostgreSQL, in threads of their own.

Each module beside `tables` holds the queries of one noun: plain functions that take a connection first and run inside
one transaction, which `relayd.hub.store.store.Store.run` gives them.
"""
