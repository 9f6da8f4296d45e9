"""
HTTP long-polling, where the main server or a proxy does not offer WebSockets, and the upgrade to one.
"""
