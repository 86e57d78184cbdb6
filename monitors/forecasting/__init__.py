"""Where a signal will be at the end of the run, and how surely: pure functions of what was measured."""
