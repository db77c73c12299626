"""Core's own samplers, corrections, shapers, losses and regularisers."""
