"""The decision log: JSON Lines that many threads and processes append to, whole lines or none. Without torch."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from saeuron_guard.errors import DecisionLogError
from saeuron_guard.guard.decisions import Decision, PromptNote

PROMPT_FORMS: Final = ("hashed", "masked", "plain")
"""How a log keeps prompts; the first is the default."""

_SALT: Final = 32
_LEAST_SALT: Final = 16
_PATIENCE: Final = 5.0
"""Seconds to wait for others who write to the log."""
_POLL: Final = 0.005


class DecisionLog:
    """Keeps what was decided of each image in the file ``path``, made if missing; its folder has to be there.

    ``prompts``: ``hashed`` keeps the SHA-256 of each prompt, keyed with a salt (HMAC); ``masked`` each letter replaced,
    so that number and length of the words are left; ``plain`` the prompt.
    ``salt``: bytes for the hashes, default those of the file ``path`` + ``.salt``, which is made with random ones.
    ``clock`` tells the time.
    The file is opened anew for each pipeline call, so it may be renamed (rotated) at any time.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        prompts: str = PROMPT_FORMS[0],
        salt: bytes | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        if prompts not in PROMPT_FORMS:
            raise DecisionLogError(f"prompts is {prompts!r}, expected {', '.join(PROMPT_FORMS)}")
        self.path = Path(path)
        if not self.path.name:
            raise DecisionLogError(f"{self.path}: is no file's name; expected one such as decisions.jsonl")
        _check_salt(salt)
        self.prompts = prompts
        self._salt = salt
        self._clock = clock

    def now(self) -> str:
        """The clock's time as lines have it: UTC, ISO 8601, to the microsecond."""
        return self._clock().astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")

    def note(self, prompt: str) -> PromptNote:
        """``prompt`` in the form in which the log keeps it. Raises DecisionLogError when there is no salt to be had."""
        if self.prompts == "plain":
            return PromptNote("plain", prompt, "")
        if self.prompts == "masked":
            return PromptNote("masked", mask(prompt), "")
        salt = self._salted()
        return PromptNote("hashed", hashed(prompt, salt), hashlib.sha256(salt).hexdigest()[:8])

    def check(self) -> None:
        """Raise DecisionLogError unless lines can be appended now."""
        with _appending(self.path):
            pass
        self.note("")

    def append(self, decisions: Sequence[Decision]) -> None:
        """Write ``decisions``, a line each, all with one write; DecisionLogError, and none of them, when it fails.

        A line that somebody else left unfinished is ended first, so that it spoils no other.
        """
        text = "".join(f"{decision.line()}\n" for decision in decisions).encode("ascii")
        with _appending(self.path) as file:
            size = os.fstat(file).st_size
            unfinished = size > 0 and os.pread(file, 1, size - 1) != b"\n"
            data = b"\n" + text if unfinished else text
            try:
                written = os.write(file, data)
            except OSError:
                os.ftruncate(file, size)
                raise
            if written != len(data):
                os.ftruncate(file, size)
                raise DecisionLogError(f"{self.path}: {written} of {len(data)} bytes were written; is the disk full?")

    def _salted(self) -> bytes:
        if self._salt is None:
            path = self.path.with_name(f"{self.path.name}.salt")
            with _appending(self.path):  # whoever holds the log's lock may make its salt
                self._salt = _read_salt(path) or _write_salt(path)
        return self._salt


def _check_salt(salt: Any) -> None:
    if salt is not None and (not isinstance(salt, bytes) or len(salt) < _LEAST_SALT):
        got = f"has {len(salt)} bytes" if isinstance(salt, bytes) else f"is of type {type(salt).__name__}"
        raise DecisionLogError(f"the salt {got}; expected at least {_LEAST_SALT} random bytes")


def hashed(prompt: str, salt: bytes) -> str:
    """The SHA-256 of ``prompt``, keyed with ``salt`` (HMAC): equal prompts are found again, others not guessed."""
    return "hmac-sha256:" + hmac.new(salt, prompt.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def mask(prompt: str) -> str:
    """``prompt`` with an ``x`` for each character that is no white space, and a blank for each that is."""
    return re.sub(r"\s", " ", re.sub(r"\S", "x", prompt))


@contextmanager
def _appending(path: Path) -> Iterator[int]:
    """The file ``path``, open for appending and locked against all others; DecisionLogError when that cannot be."""
    try:
        file = _open_locked(path)
        try:
            yield file
        finally:
            _unlock(file)
            os.close(file)
    except OSError as error:
        raise DecisionLogError(f"{path}: decisions cannot be written ({error.strerror or error})") from None


def _open_locked(path: Path) -> int:
    deadline = time.monotonic() + _PATIENCE
    while True:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        file = os.open(path, flags, 0o640)
        try:
            _check_regular(file, path)
            _lock(file, path, deadline)
            if _is_at(path, file):
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # renamed between opening and locking


def _check_regular(file: int, path: Path) -> None:
    if not stat.S_ISREG(os.fstat(file).st_mode):
        raise DecisionLogError(f"{path}: not a regular file; decisions are appended to files only")


def _is_at(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(file))  # noqa: PTH116
    except FileNotFoundError:
        return False


def _lock(file: int, path: Path, deadline: float) -> None:
    try:
        import fcntl
    except ImportError:
        raise DecisionLogError(f"{path}: this system has no advisory locks, which the decision log needs") from None
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise DecisionLogError(f"{path}: locked by others for {_PATIENCE:g} seconds; who holds it?") from None
            time.sleep(_POLL)
        else:
            return


def _unlock(file: int) -> None:
    import fcntl

    # Closing would not do: a process forked meanwhile holds the same lock by its copy of the descriptor.
    fcntl.flock(file, fcntl.LOCK_UN)


def _read_salt(path: Path) -> bytes | None:
    try:
        text = path.read_text(encoding="ascii")
        salt = bytes.fromhex(text)
    except FileNotFoundError:
        return None
    except ValueError:
        salt = b""
    if len(salt) != _SALT:
        raise DecisionLogError(f"{path}: not a salt ({2 * _SALT} hexadecimal digits); move it away for a new one")
    return salt


def _write_salt(path: Path) -> bytes:
    salt = secrets.token_bytes(_SALT)
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    file = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "w", encoding="ascii") as stream:
        stream.write(salt.hex() + "\n")
    partial.replace(path)
    return salt
