"""Adversarial generation: generators of one step, and discriminators."""
