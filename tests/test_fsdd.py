"""Fetching FSDD from a server on this machine: fresh, resumed, damaged, offline, by hand."""

import hashlib
import http.server
import io
import os
import threading
import urllib.request
import zipfile
from pathlib import Path

import pytest

from spectrovae.data import fsdd
from spectrovae.errors import InputError


@pytest.fixture
def contents(monkeypatch):
    """A data set of one speaker, with text for sound, and the module told to expect it."""
    files = {f"{digit}_theo_{take}.wav": f"{digit}/{take}".encode() for digit in range(10) for take in range(50)}
    monkeypatch.setattr(fsdd, "SPEAKERS", ("theo",))
    lines = [f"{name} {hashlib.sha256(files[name]).hexdigest()}\n" for name in sorted(files)]
    monkeypatch.setattr(fsdd, "CONTENT_SHA256", hashlib.sha256("".join(lines).encode()).hexdigest())
    return files


def zipped(files, extra=()):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in [*((f"fsdd-master/recordings/{name}", files[name]) for name in files), *extra]:
            archive.writestr(name, content)
    return buffer.getvalue()


class Server:
    """Serves one body over loopback http, with Range if ``ranges``, at most ``limit`` bytes a time."""

    def __init__(self, body, ranges=True, limit=None, redirect=None):
        self.body, self.ranges, self.limit, self.asked = body, ranges, limit, []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                asked = self.headers.get("Range")
                outer.asked.append(asked)
                if redirect:
                    self.send_response(302)
                    self.send_header("Location", redirect)
                    self.end_headers()
                    return
                start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and outer.ranges else 0
                if start >= len(outer.body) > 0:
                    self.send_error(416)
                    return
                self.send_response(206 if asked and outer.ranges else 200)
                self.send_header("Content-Length", str(len(outer.body) - start))
                self.end_headers()
                self.wfile.write(outer.body[start:][: outer.limit])

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/fsdd.zip"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def serve():
    servers = []

    def start(*args, **kwargs):
        servers.append(Server(*args, **kwargs))
        return servers[-1]

    yield start
    for server in servers:
        server.server.shutdown()
        server.server.server_close()


def found(folder):
    return {path.name: path.read_bytes() for path in (folder / "recordings").iterdir()}


def test_a_fresh_download_and_a_second_call(tmp_path, contents, serve):
    server, seen = serve(zipped(contents)), []
    folder = tmp_path / "deep" / "fsdd"
    result = fsdd.download(folder, url=server.url, progress=lambda done, total: seen.append((done, total)))
    assert result == {"folder": str(folder), "recordings": 500, "already_there": False}
    assert found(folder) == contents
    assert seen[-1] == (len(server.body), len(server.body))
    assert "ShareAlike" in (folder / "README.md").read_text()
    assert [path.name for path in folder.parent.iterdir()] == ["fsdd"]

    assert fsdd.download(folder, url=server.url)["already_there"]
    assert server.asked == [None]


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_is_continued(tmp_path, contents, serve, ranges):
    body = zipped(contents)
    with pytest.raises(InputError, match=r"after 1000 of \d+ bytes; run the same again"):
        fsdd.download(tmp_path / "fsdd", url=serve(body, limit=1000).url)
    assert (tmp_path / "fsdd.zip.part").stat().st_size == 1000
    assert not (tmp_path / "fsdd").exists()

    server = serve(body, ranges=ranges)
    fsdd.download(tmp_path / "fsdd", url=server.url)
    assert server.asked == ["bytes=1000-"]
    assert found(tmp_path / "fsdd") == contents


def test_a_part_that_is_whole_needs_no_more_bytes(tmp_path, contents, serve):
    body = zipped(contents)
    (tmp_path / "fsdd.zip.part").write_bytes(body)
    fsdd.download(tmp_path / "fsdd", url=serve(body).url)
    assert found(tmp_path / "fsdd") == contents


def test_damaged_or_different_archives_leave_nothing(tmp_path, contents, serve):
    first = next(iter(contents))
    broken = bytearray(zipped(contents))
    broken[60:75] = b"?" * 15
    cases = {
        "damaged": b"<html>not an archive</html>",
        "damaged|not the expected": bytes(broken),
        "are not those expected": zipped({**contents, first: b"something else"}),
        "1 recordings are missing": zipped({name: contents[name] for name in contents if name != first}),
        "too large": zipped({**contents, first: bytes(2 << 20)}),
    }
    for reason, body in cases.items():
        with pytest.raises(InputError, match=reason):
            fsdd.download(tmp_path / "fsdd", url=serve(body).url)
        assert list(tmp_path.iterdir()) == []


def test_paths_in_an_archive_lead_nowhere(tmp_path, contents):
    (tmp_path / "inside").mkdir()
    hostile = [
        ("../../escaped.wav", b"x"),
        ("a/recordings/../../0_theo_0.txt", b"x"),
        ("/recordings/evil.wav", b"x"),
    ]
    (tmp_path / "inside" / "a.zip").write_bytes(zipped(contents, hostile))
    fsdd.download(tmp_path / "inside" / "fsdd", archive=tmp_path / "inside" / "a.zip")
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {*contents, "README.md", "a.zip"}


def test_a_redirect_to_a_plain_address_is_refused_before_it_is_requested(tmp_path, serve, contents):
    with pytest.raises(InputError, match="refusing to download from http://plain.invalid/x.zip"):
        fsdd.download(tmp_path / "fsdd", url=serve(b"", redirect="http://plain.invalid/x.zip").url)
    other = serve(zipped(contents))
    fsdd.download(tmp_path / "fsdd", url=serve(b"", redirect=other.url).url)
    assert len(other.asked) == 1
    request = urllib.request.Request("https://example.com/fsdd.zip")
    with pytest.raises(InputError, match="refusing"):
        fsdd._SafeRedirects().redirect_request(request, None, 302, "Found", {}, other.url)
    assert len(other.asked) == 1


def test_without_a_network_it_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"--archive FILE.*toy:harmonic"):
        fsdd.download(tmp_path / "fsdd", url="http://127.0.0.1:9/fsdd.zip")
    with pytest.raises(InputError, match="expected an https address"):
        fsdd.download(tmp_path / "fsdd", url="http://example.com/fsdd.zip")
    with pytest.raises(InputError, match="does not exist; fetch https://"):
        fsdd.download(tmp_path / "fsdd", archive=tmp_path / "absent.zip")
    assert not (tmp_path / "fsdd").exists()


def test_a_server_that_has_nothing_is_said(tmp_path, serve, contents):
    (tmp_path / "fsdd.zip.part").write_bytes(b"x" * 10)
    with pytest.raises(InputError, match="damaged"):
        fsdd.download(tmp_path / "fsdd", url=serve(b"x" * 10).url)


def test_folders_in_use_are_left_alone(tmp_path, contents, serve):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    url = serve(zipped(contents)).url
    with pytest.raises(InputError, match="500 recordings are missing"):
        fsdd.download(tmp_path / "mine", url=url)
    with pytest.raises(InputError, match="is a file"):
        fsdd.download(tmp_path / "mine" / "thesis.txt", url=url)
    with pytest.raises(InputError, match="cannot write"):
        fsdd.download(tmp_path / "mine" / "thesis.txt" / "fsdd", url=url)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    (tmp_path / "empty").mkdir()
    fsdd.download(tmp_path / "empty", url=url)
    assert len(found(tmp_path / "empty")) == 500


@pytest.mark.data
def test_the_expected_hash_is_that_of_the_data_set():
    if "SPECTROVAE_DATA" not in os.environ:
        pytest.skip("SPECTROVAE_DATA does not name the recordings")
    folder = Path(os.environ["SPECTROVAE_DATA"]) / "fsdd"
    assert len(fsdd.recording_names()) == 3000
    assert fsdd.download(folder, url="https://unreachable.invalid")["already_there"]
