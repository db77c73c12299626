"""Decoding on a GPU: keys and values in pages, each step replayed as one CUDA graph."""
