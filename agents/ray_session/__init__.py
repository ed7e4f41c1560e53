"""Starting, joining and leaving Ray."""
