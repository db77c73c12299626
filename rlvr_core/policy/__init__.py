"""The policy: loading and saving it, and its forward passes."""
