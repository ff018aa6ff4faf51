"""Files in an object store, or on anything else that fsspec reaches: s3://, gs://, https://, file:// ...

Credentials and endpoints come from where the library of a store looks for them, such as AWS_ACCESS_KEY_ID and
FSSPEC_S3_ENDPOINT_URL. s3:// needs s3fs and gs:// gcsfs, which are not installed with the project.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs

from components.shared.manifest import Entry, sha256_of

SILENCE_S = 60.0
"""A connection over which nothing comes for so long is given up."""
_PASSING = (408, 425, 429)
"""HTTP status codes below 500 that another try may not meet."""
_LOCAL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class Damaged(ValueError):
    """A file that came over and is not what the manifest says."""


def fetch(entry: Entry, target: Path) -> None:
    """Copy a file of a store to a local path and hold it against its manifest.

    Raises ConnectionError when it may go well next time, Damaged when size or sha256 differ, ValueError when the store
    has no such file or does not let us read it, and OSError when the local disk is full.
    """
    with _said(entry.uri):
        store, remote = open_store(entry.uri)
        store.get_file(remote, str(target))
    size = target.stat().st_size
    if size != entry.size:
        raise Damaged(f"{entry.uri}: {entry.path}: got {size} bytes, wanted {entry.size}; make it again with mix")
    got = sha256_of(target)
    if got != entry.sha256:
        raise Damaged(f"{entry.uri}: {entry.path}: got sha256 {got}, wanted {entry.sha256}; it was changed since mix")


def store_file(source: Path, uri: str) -> bool:
    """Copy a local file to a store unless one of its size is there; whether it was copied. Raises as `fetch`."""
    size = source.stat().st_size
    with _said(uri):
        store, remote = open_store(uri)
        if store.exists(remote) and store.size(remote) == size:
            return False
        store.makedirs(store._parent(remote), exist_ok=True)
        store.put_file(str(source), remote)
        got = store.size(remote)
    if got != size:
        raise Damaged(f"{uri}: got {got} bytes after the upload, wanted {size}")
    return True


def open_store(uri: str) -> tuple[Any, str]:
    """The file system of a URI and the path in it. Raises ValueError when there is no library for it."""
    options: dict[str, Any] = {}
    if uri.startswith(("http://", "https://")):
        from aiohttp import ClientTimeout  # its own default ends every transfer after five minutes

        options["client_kwargs"] = {"timeout": ClientTimeout(total=None, connect=SILENCE_S, sock_read=SILENCE_S)}
    try:
        return url_to_fs(uri, **options)
    except ImportError as error:
        raise ValueError(f"{uri}: {error}") from error


@contextmanager
def _said(uri: str) -> Iterator[None]:
    """Errors of any store's library as those of `fetch`."""
    try:
        yield
    except ValueError:
        raise
    except FileNotFoundError as error:
        raise ValueError(f"{uri}: no such file in the store; publish the mix again") from error
    except (PermissionError, NotImplementedError) as error:
        raise ValueError(f"{uri}: {error or type(error).__name__}") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _LOCAL_ERRNOS:
            raise
        status = getattr(error, "status", 0)
        if isinstance(status, int) and 400 <= status < 500 and status not in _PASSING:
            raise ValueError(f"{uri}: the store answers {status} {getattr(error, 'message', '')}") from error
        raise ConnectionError(f"{uri}: {type(error).__name__}: {error}") from error
