"""The demonstration run of `midcourse demo`."""
