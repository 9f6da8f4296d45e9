"""
What a running relay shows of itself by HTTP: health, readiness, metrics, status.
"""
