"""Making the embedded model once and keeping it.

A model lies in a folder named by a hash of what it follows from: the recipe, the versions of torch and transformers, and the code
that makes it. A folder appears by renaming, so one that is there is whole; a lock lets one process make it while others wait.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import transformers
from filelock import FileLock
from transformers.utils import logging

from rlvr_core.embedded import demonstrations, tokenizer, warm_start
from rlvr_core.embedded.tokenizer import embedded_tokenizer
from rlvr_core.embedded.warm_start import Progress, Recipe
from rlvr_core.errors import ModelError
from rlvr_core.events import Event, Notice
from rlvr_core.tasks import arithmetic

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
MAKERS = (arithmetic, demonstrations, tokenizer, warm_start)
"""The modules whose code decides what the model is."""


def embedded_model(
    cache_dir: Path | None = None,
    *,
    recipe: Recipe | None = None,
    tell: Callable[[Event], None] | None = None,
    progress: Progress | None = None,
) -> Path:
    """The folder with the embedded model and its tokenizer; made now if it is not there yet.

    ``cache_dir``: where such folders are kept; None: ``$RLVR_CACHE``, else ``$XDG_CACHE_HOME/rlvr``, else ``~/.cache/rlvr``.
    ``tell`` gets a line before and after making it, ``progress`` each step. Raises ModelError where nothing can be written.
    """
    root = cache_root() if cache_dir is None else Path(cache_dir)
    recipe = recipe or Recipe()
    folder = root / f"embedded-{key_of(recipe)}"
    if _whole(folder):
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f"{folder.name}.lock"):
            if not _whole(folder):
                _make(folder, recipe, tell or _tell_nobody, progress)
    except OSError as error:
        raise ModelError(
            f"the embedded model cannot be kept in {root}: {error.strerror or error}; name a folder that can be written in RLVR_CACHE"
        ) from error
    return folder


def cache_root() -> Path:
    """Where models are kept unless a folder is named."""
    if named := os.environ.get("RLVR_CACHE"):
        return Path(named).expanduser()
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return Path(caches) / "rlvr"
    return Path.home() / ".cache" / "rlvr"


def key_of(recipe: Recipe) -> str:
    """Sixteen digits that change with anything the model follows from."""
    code = [inspect.getsource(module) for module in MAKERS]
    parts = (repr(recipe), torch.__version__, transformers.__version__, *code)
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def _make(folder: Path, recipe: Recipe, tell: Callable[[Event], None], progress: Progress | None) -> None:
    """Train, write beside the folder, then rename."""
    tell(Notice(f"warm-starting the embedded model, once: {recipe.steps} supervised steps, about 30 s"))
    encoder = embedded_tokenizer()
    model = warm_start.warm_start(recipe, encoder, progress)
    with TemporaryDirectory(dir=folder.parent, prefix=".making-") as beside, _quiet():
        work = Path(beside) / folder.name
        model.save_pretrained(work)
        encoder.save_pretrained(work)
        if folder.exists():  # it lacks files: someone cleaned up inside
            shutil.rmtree(folder)
        work.rename(folder)
    tell(Notice(f"kept the embedded model in {folder}"))


def _whole(folder: Path) -> bool:
    return all((folder / name).is_file() for name in FILES)


def _tell_nobody(event: Event) -> None:
    pass


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars from transformers while files are written."""
    were_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if were_on:
            logging.enable_progress_bar()
