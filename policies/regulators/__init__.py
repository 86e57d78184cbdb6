"""Regulators: continuous control on a cadence, from numbers to numbers. No clock, no torch, no effects."""
