"""unCLIP: priors over image embeddings, a decoder of them, upsamplers."""
