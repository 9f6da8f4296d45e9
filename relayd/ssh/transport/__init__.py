"""
The SSH transport protocol: version, key exchange, packets (RFC 4253).
"""
