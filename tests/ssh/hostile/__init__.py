"""SSH servers that are slow, broken or hostile, and somebody between them and the client."""
