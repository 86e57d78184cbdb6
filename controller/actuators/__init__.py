"""Actuators: one a file, each turning a decided action into an effect that is read back."""
