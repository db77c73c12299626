"""POPO: positive-only policy optimisation, as parts of an rlvr objective."""
