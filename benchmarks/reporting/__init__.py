"""Reports: one HTML page that a person reads, and the videos in it."""
