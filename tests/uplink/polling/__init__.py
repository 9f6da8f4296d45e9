"""HTTP long-polling."""
