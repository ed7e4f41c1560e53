"""What a task is: schemas, errors, options, registries, and the batch every adapter returns."""
