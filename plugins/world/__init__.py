"""The embedded world of moving shapes, drawn exactly, so that pixels can be read back to states."""
