"""What an author writes: pure declarations, no engine and no I/O."""
