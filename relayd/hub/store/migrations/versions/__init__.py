"""
One file for each version of the hub's tables; ``packaging/migration.py`` writes the next one.
"""
