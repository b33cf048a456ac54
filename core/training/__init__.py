"""The verb `train`: phases, turns, averages, precision, distribution, checkpoints."""
