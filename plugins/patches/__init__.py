"""Vision transformers over patches and tubelets, and masked training."""
