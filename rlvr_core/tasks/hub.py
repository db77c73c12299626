"""Task ``hub``: a data set of the Hugging Face hub, or a local folder laid out like one."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from rlvr_core.errors import DataError, nearest
from rlvr_core.records import Example
from rlvr_core.tasks.options import HubOptions
from rlvr_core.tasks.rows import RowReader, RowTask

if TYPE_CHECKING:
    from datasets import Dataset

REACH_SECONDS = 5.0
"""How long the hub may take to accept a connection before it counts as out of reach."""


class HubTask(RowTask):
    """Rows of one split of a data set; code that a repository brings is never run."""

    options: HubOptions

    def read_train(self) -> list[Example] | None:
        """Rows of ``split``, where set."""
        return None if self.options.split is None else self._read(self.options.split)

    def read_eval(self) -> list[Example] | None:
        """Rows of ``eval_split``, where set."""
        return None if self.options.eval_split is None else self._read(self.options.eval_split)

    def source(self) -> str:
        """Data set, configuration and splits."""
        o = self.options
        splits = " and ".join(split for split in (o.split, o.eval_split) if split is not None)
        return f"{o.path}{'' if o.config is None else f' ({o.config})'} {splits}"

    def _read(self, split: str) -> list[Example]:
        where = f"{self.options.path}{'' if self.options.config is None else f' ({self.options.config})'}, split {split}"
        rows = load_split(self.options, split)
        reader = RowReader(split, "row index", self.options)
        for number, row in enumerate(rows):
            reader.add(number, row)
        return reader.finish(where)


def load_split(options: HubOptions, split: str) -> Dataset:
    """One split. Raises DataError in one line: no such data set, configuration or split (saying which there are), or no network."""
    import datasets
    import pyarrow as pa

    path = str(Path(options.path).expanduser())
    if looks_local(options.path) and not Path(path).exists():
        raise DataError(f"{options.path}: no such folder (looked in {Path.cwd()})")
    offline = not Path(path).exists() and not hub_in_reach()
    download = datasets.DownloadConfig(cache_dir=options.cache_dir, local_files_only=offline)
    try:
        with _quiet():
            loaded: Dataset = datasets.load_dataset(
                path,
                name=options.config,
                split=split,
                revision=options.revision,
                cache_dir=options.cache_dir,
                download_config=download,
            )
            return loaded
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError, pa.ArrowException) as error:
        raise DataError(_explained(options, path, split, offline, error)) from error


def looks_local(name: str) -> bool:
    """Whether a name can only mean a place on this machine: hub names have one slash at most."""
    return name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1


def hub_in_reach() -> bool:
    """Whether the hub accepts connections. Asked first, because the hub's client retries for most of a minute where it does not."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    endpoint = urlsplit(constants.ENDPOINT)
    if endpoint.scheme in getproxies():
        return True  # the proxy knows; a direct connection proves nothing
    port = endpoint.port or (443 if endpoint.scheme == "https" else 80)
    try:
        with socket.create_connection((endpoint.hostname or "", port), timeout=REACH_SECONDS):
            return True
    except OSError:
        return False


def _explained(options: HubOptions, path: str, split: str, offline: bool, error: Exception) -> str:
    """The library's error as one line with what there is."""
    if offline:
        return (
            f"{options.path}: no such folder here (looked in {Path.cwd()}), and as a data set of the hub it is neither in the cache "
            "nor can the hub be reached; check the name and the network, or point path at a local copy"
        )
    configs = _names("get_dataset_config_names", path, options)
    if configs and options.config is not None and options.config not in configs:
        return f"{options.path}: no configuration '{options.config}'; {nearest(options.config, configs)}"
    if configs and len(configs) > 1 and options.config is None and "config" in str(error).lower():
        return f"{options.path}: needs a config; known: {', '.join(sorted(configs))}"
    splits = _names("get_dataset_split_names", path, options, options.config)
    base = split.partition("[")[0]
    if splits and not any(part.strip() in splits for part in base.split("+")):
        return f"{options.path}: no split '{base}'; {nearest(base, splits)}"
    return f"{options.path}: cannot be loaded: {type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _names(function: str, path: str, options: HubOptions, *config: Any) -> list[str]:
    """Configurations or splits there are; none where even that cannot be found out, since another error is being explained."""
    import datasets

    try:
        with _quiet():
            names: list[str] = getattr(datasets, function)(path, *config, revision=options.revision)
            return names
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError):
        return []


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's progress bars."""
    from datasets.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

    were_on = is_progress_bar_enabled()
    disable_progress_bar()
    try:
        yield
    finally:
        if were_on:
            enable_progress_bar()
