"""
What is said to people: texts that can be translated, the catalogues, character sets.
"""
