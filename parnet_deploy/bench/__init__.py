"""Measure plans with MLPerf LoadGen: one contender at a time, alone in its process, several in turn."""
