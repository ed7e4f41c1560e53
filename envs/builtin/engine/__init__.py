"""The batch engine of the built-in games: struct-of-arrays state, counter-based random numbers, one compiled loop."""
