"""Task ``jsonl``: rows of a local JSON-lines file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rlvr_core.errors import DataError
from rlvr_core.records import Example
from rlvr_core.tasks.options import JsonlOptions
from rlvr_core.tasks.rows import RowReader, RowTask


class JsonlTask(RowTask):
    """One JSON object a line."""

    options: JsonlOptions

    def read_train(self) -> list[Example] | None:
        """Rows of ``path``, where set."""
        return None if self.options.path is None else read_jsonl(self.options.path, self.options)

    def read_eval(self) -> list[Example] | None:
        """Rows of ``eval_path``, where set."""
        return None if self.options.eval_path is None else read_jsonl(self.options.eval_path, self.options)

    def source(self) -> str:
        """The files."""
        return " and ".join(file for file in (self.options.path, self.options.eval_path) if file is not None)


def read_jsonl(file: str, options: JsonlOptions) -> list[Example]:
    """Every row of a file. Blank lines are passed over. Raises DataError naming the file and the lines that cannot be used."""
    path = Path(file).expanduser()
    reader = RowReader(path.stem, "line", options)
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                _take(reader, number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)
    except IsADirectoryError:
        raise DataError(
            f"{file}: is a folder; task jsonl reads a file with one JSON object a line (for folders there is task hub)"
        ) from None
    except FileNotFoundError:
        raise DataError(f"{file}: no such file (looked in {Path.cwd()})") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    return reader.finish(file)


def _take(reader: RowReader, number: int, line: bytes) -> None:
    if not line.strip():
        return
    try:
        row = json.loads(line.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        reader.reject(number, "not UTF-8")
    except (ValueError, RecursionError) as error:
        reader.reject(number, f"not JSON: {getattr(error, 'msg', error)}")
    else:
        reader.add(number, row)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")
