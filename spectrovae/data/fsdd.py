"""Fetch the Free Spoken Digit Dataset: 3 000 spoken digits, six speakers, 8 kHz.

By Zohar Jackson and others, https://github.com/Jakobovski/free-spoken-digit-dataset, Creative Commons
Attribution-ShareAlike 4.0. GitHub makes its archives on demand and does not promise their bytes, so what is
checked is what counts: the names and the contents of the recordings inside.
"""

import hashlib
import http.client
import os
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spectrovae.errors import InputError

COMMIT = "26eb9aaf76e81b692f806f9140c2d2777410d7a1"
URL = f"https://github.com/Jakobovski/free-spoken-digit-dataset/archive/{COMMIT}.zip"
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
CONTENT_SHA256 = "dbd573d7cafe79c4b49f65718115e1304e24e067fa39eff18a660dc6cb9c360f"

_NOTICE = f"""# Free Spoken Digit Dataset

Recordings `{{digit}}_{{speaker}}_{{index}}.wav`, mono, 8 kHz, 16 bit.
Source: https://github.com/Jakobovski/free-spoken-digit-dataset, commit {COMMIT}.
Licence: Creative Commons Attribution-ShareAlike 4.0, https://creativecommons.org/licenses/by-sa/4.0/
"""
_ARCHIVE_LIMIT = 200 << 20
_RECORDING_LIMIT = 1 << 20
_PIECE = 1 << 18
_TIMEOUT = 30.0  # seconds without a byte

Progress = Callable[[int, int], None]


def download(
    folder: str | os.PathLike,
    *,
    url: str = URL,
    archive: str | os.PathLike | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Put the checked recordings into ``folder/recordings``; nothing is done where they already are.

    An interrupted download leaves ``FOLDER.zip.part`` and is continued where the server allows it. The folder
    appears whole or not at all.

    Args:
        folder: new, empty, or already holding the data set.
        url: of the archive; https, or http on this machine.
        archive: a zip that was fetched by hand, used instead of the network.
        progress: called with (bytes received, bytes in all or 0 if unknown).

    Returns:
        ``{"folder": ..., "recordings": 3000, "already_there": bool}``.

    Raises:
        InputError: no network, a damaged archive, another content than expected, or an unusable folder.
    """
    folder = Path(folder)
    result = {"folder": str(folder), "recordings": len(recording_names()), "already_there": False}
    if folder.is_dir() and any(folder.iterdir()):
        if (problem := _problem(folder)) is None:
            return {**result, "already_there": True}
        raise InputError(f"{folder} exists and is not the complete data set ({problem}); remove it or choose another")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; choose a folder")
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        if archive is not None:
            if not Path(archive).is_file():
                raise InputError(f"{archive} does not exist; fetch {url} and give its path")
            _unpack(Path(archive), folder)
            return result
        part = folder.with_name(folder.name + ".zip.part")
        _fetch(url, part, progress)
        try:
            _unpack(part, folder)
        except InputError:
            part.unlink()  # damaged: nothing worth continuing
            raise
        part.unlink()
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}") from error
    return result


def recording_names() -> list[str]:
    """The file names of the data set, sorted."""
    return sorted(f"{digit}_{who}_{take}.wav" for digit in range(10) for who in SPEAKERS for take in range(50))


def content_sha256(recordings: Path) -> str:
    """A hash over the names and contents of the recordings in a folder."""
    digest = hashlib.sha256()
    for path in sorted(recordings.glob("*.wav"), key=lambda path: path.name):
        digest.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _problem(folder: Path) -> str | None:
    """What keeps a folder from being the data set; None if nothing."""
    present = {path.name for path in (folder / "recordings").glob("*.wav")}
    if missing := sorted(set(recording_names()) - present):
        return f"{len(missing)} recordings are missing, such as {missing[0]}"
    if present - set(recording_names()):
        return "it holds recordings that are not part of it"
    if content_sha256(folder / "recordings") != CONTENT_SHA256:
        return "the recordings are not those expected"
    return None


def _fetch(url: str, part: Path, progress: Progress | None) -> None:
    _check_scheme(url)
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        with urllib.request.build_opener(_SafeRedirects).open(request, timeout=_TIMEOUT) as response:
            if response.status != 206:  # the server sends the whole from its beginning
                done = 0
            length = response.headers.get("Content-Length")
            total = done + int(length) if length else 0
            with part.open("ab" if done else "wb") as file:
                while piece := response.read(_PIECE):
                    file.write(piece)
                    done += len(piece)
                    if progress:
                        progress(done, total)
                    if done > _ARCHIVE_LIMIT:
                        break
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing left to send: the part is whole
            return
        raise InputError(_by_hand(url, f"the server answered {error.code} {error.reason}")) from error
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise InputError(_by_hand(url, str(getattr(error, "reason", error)))) from error
    if done > _ARCHIVE_LIMIT:
        part.unlink()
        raise InputError(f"{url} is larger than {_ARCHIVE_LIMIT >> 20} MB and cannot be the data set")
    if total and done < total:
        raise InputError(f"the connection ended after {done} of {total} bytes; run the same again to continue")


def _by_hand(url: str, reason: str) -> str:
    return (
        f"cannot download {url} ({reason}); run the same again, or fetch it elsewhere and run "
        "'spectrovae data fsdd DIR --archive FILE'; toy:harmonic needs no download"
    )


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses a redirect to a plain address before it is requested."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        _check_scheme(newurl, local=_is_local(req.full_url))
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _is_local(url: str) -> bool:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1")


def _check_scheme(url: str, local: bool = True) -> None:
    """Refuse what is neither https nor, if ``local``, http on this machine."""
    if not url.startswith("https://") and not (local and _is_local(url)):
        raise InputError(f"refusing to download from {url}: expected an https address")


def _unpack(archive: Path, folder: Path) -> None:
    """Check an archive's recordings and put them in place with one rename, under names from our own list."""
    wanted = set(recording_names())
    temporary = folder.with_name(f".{folder.name}-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / "recordings").mkdir(parents=True)
    try:
        with zipfile.ZipFile(archive) as zipped:
            for member in zipped.infolist():
                found = re.search(r"(?:^|/)recordings/([^/]+)$", member.filename)
                if not found or found[1] not in wanted:
                    continue
                if member.file_size > _RECORDING_LIMIT:
                    raise InputError(f"{archive} is not the data set: {member.filename} is too large")
                (temporary / "recordings" / found[1]).write_bytes(zipped.read(member))
        if (problem := _problem(temporary)) is not None:
            raise InputError(f"{archive} is not the expected data set: {problem}")
        (temporary / "README.md").write_text(_NOTICE, encoding="utf-8")
        if folder.exists():
            folder.rmdir()  # known to be empty
        temporary.rename(folder)
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise InputError(f"{archive} is damaged ({error}); download it again") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
