"""Options of the tasks that read rows. Imports neither torch nor datasets."""

from __future__ import annotations

from collections.abc import Mapping

from rlvr_core.options import Options, option


class RowOptions(Options):
    """How a row becomes a problem: which column holds what, and which rows are held out."""

    prompt: str = option("problem", "column with the problem: text, or a list of chat messages (mappings with role and content)")
    answer: str = option("answer", "column with the gold answer: text or a number")
    id: str | None = option(None, "column that names a row; null: the source's name and the row's number")
    answer_after: str | None = option(
        None,
        "the gold is what follows the last such mark in the answer column ('####' in GSM8K's own files); null: all of it",
        min_length=1,
    )
    limit: int | None = option(None, "training problems at most, from the front; null: all", ge=1)
    eval_limit: int | None = option(None, "held-out problems at most, from the front; null: all", ge=1)
    eval_fraction: float = option(
        0.1,
        "share of the rows held out for evaluation where no evaluation rows are named, picked by a hash of the problem, "
        "so that it never changes and the same problem is never on both sides; 0: none",
        ge=0.0,
        lt=1.0,
    )

    def own_eval(self) -> str | None:
        """The option that names evaluation rows of their own, where it is set."""
        return None

    def inert(self) -> Mapping[str, str]:
        """Holding out a share means nothing beside named evaluation rows; a limit means nothing where none are held out."""
        named = self.own_eval()
        if named is not None:
            return {"eval_fraction": f"{named} names the evaluation rows"}
        if self.eval_fraction == 0.0:
            return {"eval_limit": "eval_fraction is 0, so nothing is held out"}
        return {}


class JsonlOptions(RowOptions):
    """Rows of a local JSON-lines file: one JSON object a line, UTF-8."""

    path: str = option(description="file with the training rows; a relative path starts at the current folder", min_length=1)
    eval_path: str | None = option(
        None, "file with the evaluation rows; null: a share of the training rows is held out", min_length=1
    )

    def own_eval(self) -> str | None:
        """``eval_path``, where set."""
        return "eval_path" if self.eval_path is not None else None


class HubOptions(RowOptions):
    """A data set of the Hugging Face hub, or a local folder laid out like one, through ``datasets.load_dataset``."""

    path: str = option(
        description="hub name, or a folder with data files (parquet, json, csv) and perhaps a README.md that configures them",
        min_length=1,
    )
    config: str | None = option(None, "configuration (subset) of the data set; null: its default")
    split: str = option("train", "split with the training rows; slices such as train[:1000] work", min_length=1)
    eval_split: str | None = option(
        None, "split with the evaluation rows; null: a share of the training rows is held out", min_length=1
    )
    revision: str | None = option(None, "branch, tag or commit of a hub data set; null: its main branch")
    cache_dir: str | None = option(None, "folder for downloaded and converted files; null: the datasets library's own")

    def own_eval(self) -> str | None:
        """``eval_split``, where set."""
        return "eval_split" if self.eval_split is not None else None
