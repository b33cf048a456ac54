"""Errors of predictions, averaged so that every clip counts the same."""

from __future__ import annotations

from mutoscope.core.layers.means import clip_means

__all__ = ["clip_means"]
