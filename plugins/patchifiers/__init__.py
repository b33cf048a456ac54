"""Patchifiers: latents to tokens and back."""
