"""To be replaced by the helper that owns this file."""


def check_fits(resolved): ...
