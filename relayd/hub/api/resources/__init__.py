"""
What the API has, noun by noun: the shapes of requests and answers, the handlers, and the routes.
"""
