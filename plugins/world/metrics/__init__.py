"""Metrics that read the embedded world: each clip is read by the oracle and held against what was asked for."""
