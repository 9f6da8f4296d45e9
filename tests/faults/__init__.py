"""Faults that are really injected, and what must hold in spite of them: see docs/reliability.rst."""
