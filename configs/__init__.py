"""Policies, dashboards and server configuration that are ready to use."""
