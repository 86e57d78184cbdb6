"""Forks: a run started again from where it stood, with a decision left out, and what that changes."""
