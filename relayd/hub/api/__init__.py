"""
The hub's HTTP interface for people and programs: routes, checks, answers, events, and the OpenAPI document of all.
"""
