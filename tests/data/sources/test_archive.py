"""Archives as others write them: whole, hostile, damaged, too big."""

import gzip
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile

import pytest

from segline.data.pairs import open_tree
from segline.data.sources import members
from segline.errors import StageError
from segline.files.packs import Packs

MEBIBYTE = 1024 * 1024
KINDS = ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"]
MODES = {"tar": "w", "tar.gz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}


def pack(path, members):
    """Write an archive of (name, bytes) or, for a tar, of TarInfo."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members:
                archive.writestr(name, content)
        return path
    with tarfile.open(path, MODES[path.name.partition(".")[2]]) as archive:
        for name, content in members:
            if isinstance(name, tarfile.TarInfo):
                archive.addfile(name)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def zip_link(name, target):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, 0o120777 << 16
    return info, target


@pytest.fixture
def here(tmp_path):
    """Everything that is there, but for the archives and locks."""
    return lambda: sorted(
        str(path.relative_to(tmp_path))
        for path in tmp_path.rglob("*")
        if not path.name.startswith("data.") and path.suffix != ".lock"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_is_as_the_folder_in_it(tmp_path, contents, opening, holds, files, kind):
    opened = opening(pack(tmp_path / f"data.{kind}", contents.items()))
    assert holds(opened.tree) == contents
    assert opened.root == ""
    assert holds(open_tree("", files.parent)) == contents


@pytest.mark.parametrize("kind", KINDS)
def test_what_tar_and_zip_of_this_machine_write_is_read(tmp_path, contents, opening, holds, kind):
    source = tmp_path / "source"
    for name, content in contents.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)
    archive = tmp_path / f"data.{kind}"
    if kind == "zip":
        shutil.make_archive(tmp_path / "data", "zip", tmp_path, "source")
    else:
        subprocess.run(["tar", "--auto-compress", "-cf", archive, "-C", tmp_path, "./source"], check=True)
    assert holds(opening(archive).tree) == contents


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["top/a", "top/b/c"], ["a", "b/c"]),
        (["./top/a", "top/b"], ["a", "b"]),
        (["top/a", "other/b"], ["other/b", "top/a"]),
        (["top/a", "readme"], ["readme", "top/a"]),
        (["top/a", "__MACOSX/top/._a", ".DS_Store", "top/.hidden/b"], ["a"]),
        (["top/top/a"], ["top/a"]),
        (["top//a"], ["a"]),
    ],
)
def test_a_single_folder_around_all_is_the_root(tmp_path, opening, names, shown):
    archive = pack(tmp_path / "data.tar", [(name, b"1") for name in names])
    assert list(opening(archive).tree.files) == shown


def test_an_archive_is_unpacked_once(tmp_path, contents, opening, files):
    archive = pack(tmp_path / "data.tar.gz", contents.items())
    first = opening(archive)
    before = files.stat().st_ino
    assert opening(archive) == first
    assert files.stat().st_ino == before
    moved = archive.rename(tmp_path / "data.moved")
    assert opening(moved) == first
    assert files.stat().st_ino == before
    assert opening(pack(tmp_path / "data.zip", [("b", b"1")])).revision != first.revision
    assert list(Packs(files).files) == ["b"]


def test_a_checksum_is_checked_before_anything_is_unpacked(tmp_path, opening, refused, here):
    archive = pack(tmp_path / "data.zip", [("a", b"1")])
    digest = subprocess.run(["sha256sum", archive], check=True, capture_output=True, text=True).stdout.split()[0]
    said = refused(archive, sha256="0" * 64)
    assert said.startswith("ingest.sha256: ")
    assert digest in said
    assert "0" * 64 in said
    assert here() == []
    assert opening(archive, sha256=digest.upper()).revision == f"sha256:{digest}"


HOSTILE = {
    "up.tar": [("ok", b"1"), ("../evil", b"2")],
    "up.zip": [("ok", b"1"), ("../evil", b"2")],
    "up, in Windows' way.zip": [("ok", b"1"), ("..\\evil", b"2")],
    "up later.tar": [("ok", b"1"), ("a/../../evil", b"2")],
    "absolute.tar": [("ok", b"1"), ("/tmp/evil", b"2")],
    "absolute.zip": [("ok", b"1"), ("/tmp/evil", b"2")],
    "link up.tar": [("ok", b"1"), special("evil", tarfile.SYMTYPE, "../../outside")],
    "link up.zip": [("ok", b"1"), zip_link("evil", "../../outside")],
    "absolute link.tar": [("ok", b"1"), special("evil", tarfile.SYMTYPE, "/etc/passwd")],
    "absolute link.zip": [("ok", b"1"), zip_link("evil", "/etc/passwd")],
    "through a link.tar": [special("evil", tarfile.SYMTYPE, ".."), ("evil/file", b"1")],
    "hard link up.tar": [("ok", b"1"), special("evil", tarfile.LNKTYPE, "../outside")],
    "link to itself.tar": [("ok", b"1"), special("evil", tarfile.SYMTYPE, "evil")],
    "links in a ring.tar": [
        ("ok", b"1"),
        special("evil", tarfile.SYMTYPE, "live"),
        special("live", tarfile.SYMTYPE, "evil"),
    ],
    "link to a folder.tar": [("folder/ok", b"1"), special("evil", tarfile.SYMTYPE, "folder")],
    "link to nothing.tar": [("ok", b"1"), special("evil", tarfile.SYMTYPE, "nothing")],
    "device.tar": [("ok", b"1"), special("evil", tarfile.CHRTYPE)],
    "pipe.tar": [("ok", b"1"), special("evil", tarfile.FIFOTYPE)],
    "long link.zip": [("ok", b"1"), zip_link("evil", "ok/" * 2000)],
    "no name in UTF-8.tar": [("ok", b"1"), ("evil\udcff", b"2")],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_member_is_named_and_nothing_is_unpacked(tmp_path, refused, here, name):
    archive = tmp_path / f"data.{name.rpartition('.')[2]}"
    said = refused(pack(archive, HOSTILE[name]))
    assert "evil" in said
    assert "nothing was unpacked" in said
    assert "outside" in said or not name.startswith(("up", "absolute", "link up", "hard", "through"))
    assert here() in ([], ["out"])


def test_links_inside_stand_for_their_targets(tmp_path, opening, holds):
    tar = [
        ("top/a/real", b"1"),
        special("top/b/soft", tarfile.SYMTYPE, "../a/real"),
        special("top/hard", tarfile.LNKTYPE, "top/a/real"),
        special("top/chain", tarfile.SYMTYPE, "b/soft"),
    ]
    opened = opening(pack(tmp_path / "data.tar.gz", tar))
    assert holds(opened.tree) == dict.fromkeys(["a/real", "b/soft", "chain", "hard"], b"1")
    opened = opening(pack(tmp_path / "data.zip", [("a/real", b"1"), zip_link("b/soft", "../a/real")]))
    assert holds(opened.tree) == {"a/real": b"1", "b/soft": b"1"}


def test_a_long_link_of_a_zip_is_not_read(tmp_path, refused, monkeypatch):
    archive = pack(tmp_path / "data.zip", [("ok", b"1"), zip_link("long", "x" * 10_000_000)])
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("a member was read"))
    assert "'long' is no file, folder or link" in refused(archive)


def test_a_member_that_is_twice_in_a_zip_is_named(tmp_path, refused, here):
    with pytest.warns(UserWarning, match="Duplicate"):
        pack(tmp_path / "data.zip", [("top/a", b"1"), ("top/classes.yaml", b"1"), ("top/classes.yaml", b"2")])
    assert "'top/classes.yaml' is there twice; nothing was unpacked" in refused(tmp_path / "data.zip")
    assert "is there twice" in refused(pack(tmp_path / "data.other.zip", [("top/a", b"1"), ("top/./a", b"2")]))
    assert here() in ([], ["out"])


@pytest.mark.parametrize("name", ["a", "./a"])
def test_what_was_appended_to_a_tar_counts(tmp_path, opening, holds, name):
    archive = pack(tmp_path / "data.tar", [("a", b"old"), ("b", b"1"), (name, b"appended")])
    assert holds(opening(archive).tree) == {"a": b"appended", "b": b"1"}


def test_the_manifest_of_other_files_does_not_stand(tmp_path, opening, refused, files):
    archive = pack(tmp_path / "data.tar", [("a", b"1")])
    opening(archive)
    (files.parent / "manifest.parquet").touch()
    opening(archive)
    (tmp_path / "data.cut").write_bytes(b"PK")
    refused(tmp_path / "data.cut")
    assert (files.parent / "manifest.parquet").is_file()
    opening(pack(tmp_path / "data.zip", [("a", b"2")]))
    assert not (files.parent / "manifest.parquet").exists()


def test_the_mark_of_segline_cannot_come_from_an_archive(tmp_path, opening, files):
    opened = opening(pack(tmp_path / "data.tar", [(".segline", b"archive sha256:0\n"), ("a", b"1")]))
    assert opened.revision.removeprefix("sha256:") in (files / ".segline").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_cut_anywhere_is_one_line(tmp_path, refused, here, kind):
    draw = random.Random(kind)
    members = [(f"file{number}", draw.randbytes(700)) for number in range(20)]
    whole = pack(tmp_path / f"data.{kind}", members).read_bytes()
    # A tar is padded with zeros at its end; without some of them it is still whole.
    end = len(whole.rstrip(b"\0")) if kind == "tar" else len(whole)
    edges = [0, 1, 512, 2048, end - 1]
    for size in [*edges, *(draw.randrange(end) for _ in range(8))]:
        (tmp_path / "data.cut").write_bytes(whole[:size])
        assert "no whole archive" in refused(tmp_path / "data.cut")
    assert here() in ([], ["out"])


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.bz2", "tar.xz"])
def test_a_flipped_byte_is_noticed(tmp_path, refused, kind):
    draw = random.Random(kind)
    archive = pack(tmp_path / f"data.{kind}", [("a", draw.randbytes(5000))])
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 0xFF
    archive.write_bytes(content)
    assert "no whole archive" in refused(archive)


def test_a_tar_with_a_broken_header_is_noticed(tmp_path, refused):
    archive = pack(tmp_path / "data.tar", [("a", b"1"), ("b", b"2"), ("c", b"3")])
    content = bytearray(archive.read_bytes())
    content[1024 + 150] ^= 0xFF  # in the checksum of b
    archive.write_bytes(content)
    assert "no whole archive" in refused(archive)


@pytest.mark.parametrize("content", [b"", b"text", b"PK", os.urandom(5000)], ids=["empty", "text", "PK", "noise"])
def test_what_is_no_archive_is_one_line(tmp_path, refused, content):
    (tmp_path / "data.bin").write_bytes(content)
    assert "no whole archive" in refused(tmp_path / "data.bin")


def test_an_encrypted_zip_is_one_line(tmp_path, refused):
    content = bytearray(pack(tmp_path / "data.zip", [("a", b"1")]).read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "data.zip").write_bytes(content)
    assert "encrypted" in refused(tmp_path / "data.zip")


@pytest.mark.parametrize("members", [[], [(".hidden", b"1")], [("folder/", b"")]], ids=["none", "hidden", "folder"])
def test_an_archive_without_files_is_one_line(tmp_path, refused, members):
    assert "holds no files" in refused(pack(tmp_path / "data.zip", members))


@pytest.fixture
def little(monkeypatch):
    """Accepts 1 MiB from every archive, in place of 64."""
    monkeypatch.setattr(members, "ALWAYS_ACCEPTED_BYTES", MEBIBYTE)


def sparse(folder):
    """A tar of 10 KB with a member of 40 GB, all of it a hole."""
    with (folder / "hole").open("wb") as stream:
        stream.truncate(40 * 10**9)
    subprocess.run(["tar", "--sparse", "-cf", folder / "data.tar", "-C", folder, "hole"], check=True)
    (folder / "hole").unlink()
    return folder / "data.tar"


def zeros_behind_the_end(folder):
    archive = pack(folder / "data.tar.gz", [("a", b"1")])
    with gzip.open(archive, "ab") as stream:
        stream.write(bytes(8 * MEBIBYTE))
    return archive


def zeros_inside(folder):
    return pack(folder / "data.tar.xz", [("zeros", bytes(8 * MEBIBYTE)), ("a", b"1")])


def many_zeros(folder):
    return pack(folder / "data.zip", [(f"zeros{number}", bytes(MEBIBYTE // 2)) for number in range(16)])


def one_content_many_links(folder):
    links = [special(f"link{number}", tarfile.LNKTYPE, "zeros") for number in range(64)]
    return pack(folder / "data.tar.gz", [("zeros", bytes(MEBIBYTE // 4)), *links])


def long_header(folder):
    info = tarfile.TarInfo("a")
    info.pax_headers = {"comment": "0" * 20 * MEBIBYTE}
    return pack(folder / "data.tar.gz", [(info, b"")])


def empty_members(folder):
    return pack(folder / "data.tar.gz", [(f"{number}", b"") for number in range(8000)])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (sparse, "40.000 GB"),
        (zeros_behind_the_end, "holds more than"),
        (zeros_inside, "says that it holds"),
        (many_zeros, "says that it holds"),
        (one_content_many_links, "says that it holds"),
        (long_header, "a header in it"),
        (empty_members, "holds more than"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_an_archive_holds_no_more_than_its_size_allows(tmp_path, refused, here, little, make, said):
    archive = make(tmp_path)
    line = refused(archive, max_unpack_ratio=1)
    assert said in line
    assert str(archive) in line
    assert here() in ([], ["out"])


@pytest.mark.parametrize("make", [zeros_behind_the_end, zeros_inside, many_zeros])
def test_a_higher_ratio_accepts_what_is_right(tmp_path, opening, little, make):
    archive = make(tmp_path)
    assert opening(archive, max_unpack_ratio=10_000).tree.files


def test_an_archive_of_too_many_members_is_refused(tmp_path, refused, monkeypatch):
    monkeypatch.setattr(members, "MAX_MEMBERS", 3)
    for kind in ("zip", "tar.gz"):
        archive = pack(tmp_path / f"data.{kind}", [(f"{number}", b"") for number in range(4)])
        assert "more than 3 members" in refused(archive)


def test_a_long_chain_of_links_is_refused_at_once(tmp_path, refused):
    links = [special(f"{number}", tarfile.SYMTYPE, f"{number + 1}") for number in range(20_000)]
    assert "is a link to" in refused(pack(tmp_path / "data.tar", [*links, ("20000", b"1")]))


def test_a_member_with_other_bytes_than_it_declares_is_damage(tmp_path, refused):
    archive = pack(tmp_path / "data.zip", [("a", b"1" * 10_000)])
    for size in (9_000, 11_000):
        content = archive.read_bytes().replace((10_000).to_bytes(4, "little"), size.to_bytes(4, "little"))
        (tmp_path / "data.false").write_bytes(content)
        assert "no whole archive" in refused(tmp_path / "data.false")


@pytest.mark.parametrize("name", ["a\\b", "C:/evil"])
def test_a_name_of_another_system_is_refused(tmp_path, refused, name):
    assert "on some systems" in refused(pack(tmp_path / "data.tar", [("ok", b"1"), (name, b"1")]))


def test_a_file_that_is_also_a_folder_is_one_line(tmp_path, refused):
    assert "cannot be written" in refused(pack(tmp_path / "data.tar", [("x", b"1"), ("a", b"1"), ("a/b", b"2")]))


def test_an_archive_that_says_it_is_bigger_than_the_disk_is_refused(tmp_path, refused, here):
    archive = tmp_path / "data.zip"
    with zipfile.ZipFile(archive, "w") as opened, opened.open("a", "w", force_zip64=True) as stream:
        stream.write(b"1")
        size = 10**15
    content = archive.read_bytes()
    # The size in the central directory, which is what a reader goes by.
    at = content.index(b"PK\x01\x02")
    extra = b"\x01\x00\x08\x00" + size.to_bytes(8, "little")
    entry = bytearray(content[at : at + 46 + 1])
    entry[24:28] = b"\xff" * 4
    entry[30:32] = len(extra).to_bytes(2, "little")
    ending = bytearray(content[content.index(b"PK\x05\x06") :])
    ending[12:16] = (len(entry) + len(extra)).to_bytes(4, "little")
    archive.write_bytes(content[:at] + bytes(entry) + extra + bytes(ending))
    said = refused(archive)
    assert "1000000.000 GB" in said
    assert "make room" in said
    assert here() in ([], ["out"])


LIMITED = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
from segline.cli import main
sys.exit(main(["ingest", "--params", json.dumps({"ingest": {"source": sys.argv[1]}}), "--out", sys.argv[2]]))
"""


def test_a_disk_that_is_full_leaves_nothing_behind(tmp_path, opening, holds, here):
    before = {"small": b"1"}
    opening(pack(tmp_path / "data.tar", before.items()))
    archive = pack(tmp_path / "data.zip", [("a", b"1"), ("big", os.urandom(200_000))])
    was = here()
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, archive, tmp_path / "out"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    [line] = done.stderr.splitlines()
    assert "cannot be written (File too large)" in line
    assert here() == was
    assert holds(Packs(tmp_path / "out/files")) == before


KILLED = """
import json, sys
from pathlib import Path
from segline.config.loader import load
from segline.data.sources import open_source
from segline.files import pack_writer
pack_writer.PACK_BYTES = 100_000
params = load(json.dumps({"ingest": {"source": sys.argv[1]}}))
open_source(params.ingest, 0, Path(sys.argv[2]))
"""


def test_killed_while_unpacking_it_starts_again(tmp_path, opening, holds, files):
    contents = {f"{number:04d}": b"1" * number for number in range(3000)}
    archive = pack(tmp_path / "data.zip", contents.items())
    process = subprocess.Popen([sys.executable, "-c", KILLED, archive, files])
    while not any(files.with_name("files.partial").glob("0*")):
        time.sleep(0.002)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not files.exists()
    assert holds(opening(archive).tree) == contents
    assert not files.with_name("files.partial").exists()


def test_files_of_others_are_left_alone(tmp_path, opening, files):
    archive = pack(tmp_path / "data.zip", [("a", b"1")])
    files.mkdir(parents=True)
    (files / "mine").touch()
    with pytest.raises(StageError, match="did not put there"):
        opening(archive)
    assert [path.name for path in files.iterdir()] == ["mine"]
