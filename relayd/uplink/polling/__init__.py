"""
HTTP long-polling, for main servers and proxies that have no WebSockets, and the upgrade from it.
"""
