"""Durable checkpoints: what survives the process, and how a run goes on from it."""
