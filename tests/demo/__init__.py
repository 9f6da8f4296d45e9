"""The demonstration, as its users run it."""
