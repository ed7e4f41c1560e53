"""What `graft bench` measures."""
