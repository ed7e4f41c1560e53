"""What ``graft import`` does with an agent that was read."""
