"""
The audit log: who ordered what, on which host, and what came of it, in lines that nobody changes unnoticed.

`log` takes events and writes them in a thread of its own, `chain` is the file, `lines` its format, and `verify` finds
what somebody did to it.  See docs/audit.rst.
"""
