"""The whole of it: processes as they are run, units and packages as they are shipped."""
