"""``python -m rlvr_core`` is ``rlvr``, for launchers that start modules."""

from rlvr_core.cli import main

main()
