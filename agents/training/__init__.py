"""What the training backends share."""
