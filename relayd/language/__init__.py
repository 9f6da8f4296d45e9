"""
Texts for people: what errors have in common, texts that can be translated, their catalogues, character sets.
"""
