"""The connection to the main server."""
