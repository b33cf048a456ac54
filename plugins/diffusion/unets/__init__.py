"""Image U-Nets: each frame of a clip is a picture of its own."""
