"""GRPO's family, as parts of an rlvr objective."""
