"""
The connection to the main server: dialled, kept, renewed, and translated into calls of the command logic.
"""
