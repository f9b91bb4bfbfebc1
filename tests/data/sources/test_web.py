"""Archives from an https server, whole and with its faults."""

import hashlib
import io
import os
import signal
import subprocess
import sys
import time
import urllib.request
import zipfile

import pytest
from servers import Cut, Refuse, Whole, certificate, from_memory, serving

from segline.errors import StageError
from segline.files import retry
from segline.files.retry import ATTEMPTS

MEBIBYTE = 1024 * 1024


def zipped(contents):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return stream.getvalue()


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def packed(contents):
    """What is in the archive, by path."""
    return contents | {"big": os.urandom(300_000)}


@pytest.fixture
def served(packed):
    """What the server has, by path."""
    return {"/data.zip": zipped(packed)}


@pytest.fixture
def web(served, tls, monkeypatch):
    """A server with faults, whose certificate is trusted."""
    path, context = tls
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    monkeypatch.setattr(urllib.request, "_opener", None)
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.001)
    with serving(from_memory(served), context) as server:
        yield server


@pytest.fixture
def url(web):
    return f"{web.address}/data.zip"


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def beside(files):
    """What lies beside the files, but for the lock."""
    return sorted(path.name for path in files.parent.iterdir() if not path.name.endswith(".lock"))


def test_an_archive_is_downloaded_and_unpacked(url, served, opening, holds, packed, files, capsys):
    opened = opening(url)
    digest = sha256(served["/data.zip"])
    assert holds(opened.tree) == packed
    assert (opened.root, opened.revision) == ("", f"sha256:{digest}")
    assert beside(files) == ["files"]
    [line] = capsys.readouterr().out.splitlines()
    assert "not checked" in line
    assert digest in line


def test_with_a_checksum_nothing_is_said_and_nothing_asked_again(url, web, served, opening, files, capsys):
    first = opening(url, sha256=sha256(served["/data.zip"]))
    assert capsys.readouterr().out == ""
    web.asked.clear()
    assert opening(url, sha256=sha256(served["/data.zip"])) == first
    assert web.asked == []


def test_what_is_unchanged_is_not_downloaded_again(url, web, served, opening, holds, packed, files):
    first = opening(url)
    before = files.stat().st_ino
    assert opening(url) == first
    assert files.stat().st_ino == before
    served["/data.zip"] = zipped({"new": b"1"})
    assert holds(opening(url).tree) == {"new": b"1"}


def test_a_wrong_checksum_leaves_the_old_files_and_no_download(url, served, opening, refused, files, packed, holds):
    tree = opening(url).tree
    served["/data.zip"] = zipped({"other": b"1"})
    said = refused(url, sha256="0" * 64)
    assert sha256(served["/data.zip"]) in said
    assert "0" * 64 in said
    assert beside(files) == ["files"]
    assert holds(tree) == packed


def test_a_cut_download_goes_on_where_it_stopped(url, web, served, opening, holds, packed):
    web.faults = [Cut(100_000), Cut(50_000), Refuse(503), Cut(50_000)]
    assert holds(opening(url).tree) == packed
    assert web.ranges == [100_000, 150_000, 150_000, 200_000]


def test_a_download_that_moves_on_may_be_cut_often(url, web, served, opening, holds, packed):
    served["/data.zip"] = zipped({"big": os.urandom(10 * MEBIBYTE)})
    web.faults = [Cut(MEBIBYTE)] * 2 * ATTEMPTS
    assert list(opening(url).tree.files) == ["big"]
    assert len(web.asked) == 11


def test_a_download_that_does_not_move_on_ends(url, web, refused):
    web.faults = [Cut(10)] * 100
    said = refused(url)
    assert len(web.asked) == ATTEMPTS
    assert f"{ATTEMPTS} attempts" in said
    assert "run the same command again" in said


def test_half_a_download_goes_when_the_source_is_read_in_place(url, web, refused, opening, files, tmp_path):
    web.faults = [Cut(200_000), *[Refuse(503)] * 100]
    refused(url)
    assert beside(files) == ["files.download"]
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a").touch()
    opening(tmp_path / "source")
    assert beside(files) == []


def test_the_next_run_continues_a_download(url, web, served, refused, opening, holds, packed):
    web.faults = [Cut(200_000), *[Refuse(503)] * 100]
    refused(url)
    web.faults = []
    web.asked.clear()
    assert holds(opening(url).tree) == packed
    assert web.ranges == [200_000]


def test_a_file_that_changes_in_between_is_downloaded_from_its_start(url, web, served, opening, holds):
    def change():
        served["/data.zip"] = zipped({"new": os.urandom(150_000)})

    web.faults = [Cut(100_000, then=change)]
    assert list(opening(url).tree.files) == ["new"]


def test_a_server_that_knows_no_range_sends_the_whole_again(url, web, opening, holds, packed):
    web.faults = [Cut(100_000), Whole()]
    assert holds(opening(url).tree) == packed


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_one_line_at_once(url, web, refused, status):
    web.faults = [Refuse(status)]
    said = refused(url)
    assert f"{status}" in said
    assert url in said
    assert len(web.asked) == 1


def test_no_server_is_one_line(refused, monkeypatch):
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.001)
    assert f"{ATTEMPTS} attempts" in refused("https://127.0.0.1:1/data.zip")


@pytest.mark.parametrize(
    "url", ["https://", "https:///data.zip", "https://user:word@localhost/x", "https://a b/c", "https://[1/x"]
)
def test_a_url_that_is_none_is_one_line(refused, monkeypatch, url):
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.001)
    assert "ingest.source" in refused(url)


def test_a_certificate_that_is_not_trusted_is_one_line(url, web, refused, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)
    monkeypatch.setattr(urllib.request, "_opener", None)
    assert "certificate" in refused(url)


def test_http_needs_a_checksum(refused, opening, served, holds, packed):
    with serving(from_memory(served)) as plain:
        assert "give its SHA-256" in refused(f"{plain.address}/data.zip")
        assert plain.asked == []
        opened = opening(f"{plain.address}/data.zip", sha256=sha256(served["/data.zip"]))
        assert holds(opened.tree) == packed


def test_https_that_leads_to_http_needs_a_checksum(web, served, refused, opening, tls):
    def lead(handler):
        return 302, {"Location": f"{plain.address}/data.zip"}, b""

    with serving(from_memory(served)) as plain, serving(lead, tls[1]) as leading:
        assert "is not https" in refused(f"{leading.address}/data.zip")
        assert opening(f"{leading.address}/data.zip", sha256=sha256(served["/data.zip"])).revision


@pytest.mark.parametrize("with_checksum", [False, True])
@pytest.mark.parametrize(
    "location", ["ftp://localhost/data.zip", "file:///etc/passwd", "data:,x", "FTP://localhost/", "gopher://localhost/"]
)
def test_no_redirect_leads_to_another_scheme(web, served, refused, tls, location, with_checksum):
    settings = {"sha256": sha256(served["/data.zip"])} if with_checksum else {}
    with serving(lambda _: (302, {"Location": location}, b""), tls[1]) as leading:
        assert "is not https" in refused(f"{leading.address}/data.zip", **settings)
        assert len(leading.asked) == 1


def test_a_hop_of_http_between_two_of_https_needs_a_checksum(web, served, refused, opening, tls):
    def lead_back(_):
        return 302, {"Location": f"{web.address}/data.zip"}, b""

    def lead(_):
        return 301, {"Location": f"{plain.address}/x"}, b""

    with serving(lead_back) as plain, serving(lead, tls[1]) as leading:
        assert "set ingest.sha256" in refused(f"{leading.address}/data.zip")
        assert plain.asked == []
        assert opening(f"{leading.address}/data.zip", sha256=sha256(served["/data.zip"])).revision
        assert len(plain.asked) == 1


def test_hops_of_https_are_followed_and_a_ring_of_them_is_one_line(web, refused, opening, tls):
    with serving(lambda _: (307, {"Location": f"{web.address}/data.zip"}, b""), tls[1]) as leading:
        assert opening(f"{leading.address}/data.zip").revision
    with serving(lambda _: (302, {"Location": "/ring"}, b""), tls[1]) as ring:
        assert "302" in refused(f"{ring.address}/ring")


def test_what_is_no_archive_is_one_line_and_is_not_kept(url, served, refused, files):
    served["/data.zip"] = b"<html>log in first</html>"
    assert "no whole archive" in refused(url)
    assert beside(files) == []


def test_files_of_others_are_left_alone_and_nothing_is_asked(url, web, opening, files):
    files.mkdir(parents=True)
    (files / "mine").touch()
    with pytest.raises(StageError, match="did not put there"):
        opening(url)
    assert (files / "mine").exists()
    assert web.asked == []


def test_a_download_that_is_bigger_than_the_disk_is_refused(refused, web, served, monkeypatch):
    class Huge(bytes):
        def __len__(self):
            return 10**15

    served["/data.zip"] = Huge(b"1")
    assert "make room" in refused(f"{web.address}/data.zip")


LIMITED = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
from segline.cli import main
sys.exit(main(["ingest", "--params", json.dumps({"ingest": {"source": sys.argv[1]}}), "--out", sys.argv[2]]))
"""


def test_a_full_disk_is_one_line_and_the_download_goes_on_afterwards(url, web, opening, holds, packed, files):
    words = [sys.executable, "-c", LIMITED, url, files.parent, "100000"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    [line] = done.stderr.splitlines()
    assert "cannot be written (File too large)" in line
    assert not files.exists()
    web.asked.clear()
    assert holds(opening(url).tree) == packed
    [begin] = web.ranges
    assert 0 < begin <= 100_000


DOWNLOADING = """
import json, sys
from pathlib import Path
from segline.config.loader import load
from segline.data.sources import open_source
params = load(json.dumps({"ingest": {"source": sys.argv[1]}}))
open_source(params.ingest, 0, Path(sys.argv[2]))
"""


def test_killed_while_downloading_it_goes_on(url, web, opening, holds, packed, files):
    def wait():
        for _ in range(12000):
            if process.poll() is not None:
                return
            time.sleep(0.01)

    web.faults = [Cut(200_000, then=wait)]
    process = subprocess.Popen([sys.executable, "-c", DOWNLOADING, url, files])
    part = files.with_name("files.download") / "archive"
    while not (part.is_file() and part.stat().st_size > 100_000):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    web.asked.clear()
    assert holds(opening(url).tree) == packed
    [begin] = web.ranges
    assert begin > 100_000
