"""Files that lose nothing: atomic writes, checked tensors, checkpoints, the journal, the lock."""
