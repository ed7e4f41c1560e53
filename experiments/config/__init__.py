"""What a user writes: experiment configs and their options."""
