"""What a run needs, worked out before anything is loaded.

The model is built from its config on torch's meta device, where tensors have shapes and no numbers; references and components' own
modules are built from that one. So what training keeps is counted exactly (``kept``). What comes and goes with a batch (``passing``:
activations, logits, the key-value cache) is arithmetic for a decoder of attention and a gated MLP: an estimate.
"""
