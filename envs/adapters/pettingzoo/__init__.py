"""PettingZoo's parallel environments."""
