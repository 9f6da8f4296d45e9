"""
The main server.
"""
