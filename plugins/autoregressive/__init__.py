"""Token models: autoregressive and masked."""
