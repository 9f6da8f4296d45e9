"""
The audit log: who ordered what, on which host, and what came of it, in lines that nobody can change unnoticed.

`log` takes events and writes them in a thread of its own, `chain` has the files, `lines` their format, and `verify`
finds what was changed.  See docs/audit.rst.
"""
