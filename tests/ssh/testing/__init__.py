"""What the SSH library offers for the tests of others' programs."""
