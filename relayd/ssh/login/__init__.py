"""
The login: keys, agents, passwords and prompts (RFC 4252, RFC 4256).
"""
