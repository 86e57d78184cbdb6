"""The run itself: signals, loop, snapshots, actuators, data, journal, metrics, command line."""
