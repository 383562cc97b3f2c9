"""Messages with large tensors, encoded and decoded without copies."""
