"""Autoencoders, and the objective that trains them."""
