"""Recurrent generation: the next frame from those before it."""
