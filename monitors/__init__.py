"""Streaming monitors: what is happening in the run. Pure: no clock, no log, no torch."""
