"""The process that plays a game: run by another Python, so it imports nothing of Graft, and itself relatively."""
