"""What every test shares. One thread a process: several test processes on few cores would fight over them."""

from __future__ import annotations

import os
import signal

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
signal.signal(signal.SIGINT, signal.default_int_handler)
"""A shell starts what runs in the background with the interrupt ignored, and so would start what the tests interrupt."""
