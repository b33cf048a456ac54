"""Pieces with one right answer and no flags, shared by plugins."""
