"""
The relays' side of the wire: accepts their connections, sends them commands, and hands on what they say.

Knows no store: whether a key is right, and what becomes of a result, it asks by calls that may take a while.
"""
