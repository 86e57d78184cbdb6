"""Runs that already happened, read from journals and logs, and a policy tried on them; never loads torch."""
