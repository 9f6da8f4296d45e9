"""What a running relay shows of itself by HTTP."""
