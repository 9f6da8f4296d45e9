"""The connections that are shared: which to open, use, spare and close."""
