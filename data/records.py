"""Read and write files of records (JSON objects) one at a time, so that memory does not grow with the file."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

# Characters read at a time.
CHUNK = 1 << 20
# A surrogate pair of escapes, \uD83D\uDE00; true, false, null and -Infinity are shorter.
LONGEST_TOKEN = 12
# The escape of a UTF-16 surrogate; two make a character, one alone cannot be written to any file.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_NOT_BLANK = re.compile(r"[^ \t\r\n]")


class DataError(ValueError):
    """Error that the user can fix, in one sentence: a bad file, a bad argument, no access."""


def run(main: Callable[[list[str] | None], None]) -> None:
    """Run a script's `main`; a `DataError` prints its sentence and exits with status 1, without a stack trace."""
    try:
        main(None)
    except DataError as error:
        sys.exit(f"error: {error}")


def read_records(path: str | os.PathLike) -> Iterator[tuple[int, dict]]:
    """Yield `(line, record)` for each record of a JSON array or of a JSON-lines file.

    Args:
        path: UTF-8 file. The first character that is not blank decides: `[` is an array, anything else is JSON lines.

    Yields:
        The 1-based line on which the record starts, and the record.

    Raises:
        DataError: the file is missing or not text, or holds what is not JSON, not an object, or half a character;
            names file and line.
    """
    if not os.path.isfile(path):
        raise DataError(f"{path} does not exist.")
    try:
        with open(path, encoding="utf-8-sig") as file:
            array = file.read(CHUNK).lstrip().startswith("[")
            file.seek(0)
            for line, value in (_array_values if array else _line_values)(file, path):
                if not isinstance(value, dict):
                    raise DataError(f"{path}:{line}: expected a JSON object, got {type(value).__name__}.")
                yield line, value
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text: {error}.") from error


def _line_values(file: IO[str], path: str | os.PathLike) -> Iterator[tuple[int, object]]:
    for line, text in enumerate(file, start=1):
        if text.strip():
            try:
                value = json.loads(text)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}:{line}: not JSON: {error.msg} (column {error.colno}).") from error
            _check_characters(value, text, f"{path}:{line}")
            yield line, value


def _array_values(file: IO[str], path: str | os.PathLike) -> Iterator[tuple[int, object]]:
    scanner = _Scanner(file, path)
    scanner.take("[")
    if scanner.next_character() != "]":
        while True:
            scanner.next_character()
            line = scanner.line
            yield line, scanner.next_value()
            if scanner.next_character() == "]":
                break
            scanner.take(",")
    scanner.take("]")
    scanner.take("")


class _Scanner:
    """Reader of JSON values from a file of any size: `text[at:]` is read but unused, `line` is the line of `at`."""

    def __init__(self, file: IO[str], path: str | os.PathLike):
        self.file, self.path = file, path
        self.text, self.at, self.line = "", 0, 1

    def next_character(self) -> str:
        """Skip blanks and return the character at `at` without consuming it; "" at the end of the file."""
        while True:
            found = _NOT_BLANK.search(self.text, self.at)
            self._advance(found.start() if found else len(self.text))
            if self.at < len(self.text) or not self._refill():
                return self.text[self.at : self.at + 1]

    def take(self, character: str) -> None:
        """Consume `character` after blanks ("" is the end of the file)."""
        if (got := self.next_character()) != character:
            names = [f"'{each}'" if each else "the end of the file" for each in (character, got)]
            raise DataError("{}:{}: not JSON: expected {}, got {}.".format(self.path, self.line, *names))
        self.at += len(character)

    def next_value(self) -> object:
        """Return the value that starts at `at`."""
        previous = None
        while True:
            try:
                value, end = json.JSONDecoder().raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                # The value may only be cut off by the end of `text`. It is malformed if more text, at least a token's
                # length of it, does not move the error (an unterminated string stays until its end arrives).
                problem = (error.msg, error.pos - self.at)
                followed = len(self.text) - error.pos > LONGEST_TOKEN
                stuck = followed and problem == previous and not error.msg.startswith("Unterminated string")
                if stuck or not self._refill():
                    line = self.line + self.text.count("\n", self.at, self.at + problem[1])
                    raise DataError(f"{self.path}:{line}: not JSON: {error.msg}.") from error
                previous = problem
            else:
                _check_characters(value, self.text[self.at : end], f"{self.path}:{self.line}")
                self._advance(end)
                return value

    def _advance(self, end: int) -> None:
        self.line += self.text.count("\n", self.at, end)
        self.at = end

    def _refill(self) -> bool:
        # As much again as is pending: a value of n characters is then scanned O(log n) times, not O(n).
        more = self.file.read(max(CHUNK, len(self.text) - self.at))
        self.text, self.at = self.text[self.at :] + more, 0
        return bool(more)


def _check_characters(value: object, text: str, where: str) -> None:
    if _SURROGATE.search(text):
        try:
            to_json(value).encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(error.object[error.start]):04x}"
            raise DataError(f"{where}: {half} is half a character (a surrogate without its pair).") from error


@contextmanager
def replacing(*paths: str | os.PathLike) -> Iterator[list[str]]:
    """Yield a temporary name beside each of `paths`; move them all into place if the block ends well, else delete them.

    Parent folders are created. A reader therefore never sees a half-written file, not even where two processes write
    the same one.
    """
    temporary = [f"{os.fspath(path)}.partial{os.getpid()}" for path in paths]
    with ExitStack() as cleanup:
        for partial in map(Path, temporary):
            partial.parent.mkdir(parents=True, exist_ok=True)
            cleanup.callback(partial.unlink, missing_ok=True)
        yield temporary
        for name, path in zip(temporary, paths, strict=True):
            os.replace(name, path)


def write_array(path: str, records: Iterable[dict]) -> int:
    """Write `records` as a JSON array with one record per line; returns how many there were."""
    count = 0
    with open(path, "w", encoding="utf-8") as file:
        file.write("[")
        for record in records:
            file.write((",\n  " if count else "\n  ") + to_json(record))
            count += 1
        file.write("\n]\n")
    return count


def write_lines(path: str, records: Iterable[dict]) -> int:
    """Write `records` as JSON lines; returns how many there were."""
    count = 0
    with open(path, "w", encoding="utf-8") as file:
        for record in records:
            file.write(to_json(record) + "\n")
            count += 1
    return count


def to_json(value: object) -> str:
    """Return compact JSON on one line, with non-ASCII characters kept readable."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
