"""Probes: monitors that measure the model itself (the only monitors that may load torch)."""
