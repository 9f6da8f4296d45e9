"""What becomes of a command, from its order to the receipt of its result."""
