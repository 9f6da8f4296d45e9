"""
Coverage-guided fuzzing of each parser, by hand: ``make fuzz TARGET=… SECONDS=…``; not a part of ``make test``.
"""
