"""Other people's environments, restarted and counted when they fail."""
