"""Policies: what should be done about it. Pure: never torch, never a clock."""
