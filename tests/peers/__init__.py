"""Real servers that others wrote: SSH servers, main servers, and what stands before them."""
