"""
The connection to the main server: kept, renewed, and translated into calls of the command logic.
"""
