"""Files and folders go to a real S3 server and come back, also through one that fails."""

import hashlib
import json
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
from servers import Cut, Refuse

from segline.cli import main
from segline.errors import SourceError, StageError
from segline.files import transfer
from segline.files.atomic import MARK, writing
from segline.files.transfer import download, local_file, origin, upload

BIG = os.urandom(300_000)


def refusal(call):
    """The one line of the SourceError that ends the run."""
    with pytest.raises(SourceError) as caught:
        call()
    [line] = str(caught.value).splitlines()
    return line


def test_a_file_of_a_bucket_is_copied_under_a_name_by_its_content(bucket, tmp_path):
    name = bucket({"weights/net.pth": b"one"})
    place, keep = f"s3://{name}/weights/net.pth", tmp_path / "kept"
    first = local_file(place, keep)
    assert (first.read_bytes(), first.name) == (b"one", f"{hashlib.sha256(b'one').hexdigest()[:16]}-net.pth")
    assert local_file(place, keep) == first
    bucket({"weights/net.pth": b"two"}, name)
    assert local_file(place, keep).read_bytes() == b"two"
    assert first.read_bytes() == b"one"
    assert refusal(lambda: local_file(f"s3://{name}/weights/nut.pth", keep)).startswith(f"s3://{name}/weights/nut.pth")
    assert len(list(keep.iterdir())) == 2


def test_a_file_of_this_machine_is_taken_where_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.pth").write_bytes(b"one")
    assert local_file("net.pth", tmp_path / "kept") == tmp_path / "net.pth"
    assert (
        refusal(lambda: local_file("nut.pth", tmp_path / "kept"))
        == f"'nut.pth' is not a file (looked from {tmp_path}); fix the path"
    )
    assert not (tmp_path / "kept").exists()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGLINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def written(tmp_path):
    """A folder as a stage writes it."""
    return rewrite(tmp_path / "written", {"a.txt": b"one", "x/ü y.bin": BIG, "x/y/z": b"", "docs/.hidden": b"h"})


def rewrite(folder, contents):
    with writing(folder) as work:
        for name, content in contents.items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).write_bytes(content)
    return folder


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def requests(s3, *methods):
    """What was asked for since last time, by method: GET here is of an object, not of a listing."""
    asked, s3.asked = s3.asked, []
    return [path for method, path, _ in asked if method in methods and "list-type" not in path]


def test_a_folder_goes_to_a_bucket_and_comes_back_and_nothing_is_copied_twice(bucket, s3, cache, written):
    url = f"s3://{bucket({})}/runs/a b"
    upload(written, url)
    puts = requests(s3, "PUT")
    assert len([path for path in puts if MARK not in path]) == 4
    here = download(url)
    assert contents(here) == contents(written)
    assert here.parent == cache
    assert origin(here) == url
    assert origin(written) == ""
    s3.asked = []
    upload(written, f"{url}/")
    assert download(f"{url}/") == here
    assert requests(s3, "GET", "PUT", "DELETE") == []


def test_what_changed_is_sent_alone_and_what_the_folder_no_longer_has_goes(bucket, s3, s3_client, cache, written):
    name = bucket({"beside": b"stays"})
    upload(written, f"s3://{name}/out")
    before = download(f"s3://{name}/out")
    s3.asked = []
    rewrite(written, {"a.txt": b"two", "x/ü y.bin": BIG})
    upload(written, f"s3://{name}/out")
    assert [path for path in requests(s3, "PUT") if MARK not in path] == [f"/{name}/out/a.txt"]
    keys = {entry["Key"] for entry in s3_client.list_objects_v2(Bucket=name)["Contents"]}
    assert keys == {"beside", f"out/{MARK}", "out/a.txt", "out/x/ü y.bin"}
    after = download(f"s3://{name}/out")
    assert contents(after) == contents(written)
    assert after != before
    assert (before / "a.txt").read_bytes() == b"one", "someone may still read it"


def test_what_segline_did_not_write_is_not_deleted(bucket, s3, s3_client, written):
    name = bucket({"out/label/precious": b"1"})
    for url in (f"s3://{name}", f"s3://{name}/out"):
        with pytest.raises(StageError, match=r"holds objects that segline did not write; give --out another prefix$"):
            upload(written, url)
    assert requests(s3, "PUT", "DELETE") == []


def test_an_upload_that_was_cut_off_is_noticed_and_goes_on(bucket, s3, s3_client, cache, written, monkeypatch):
    url = f"s3://{bucket({})}/out"
    monkeypatch.setattr(transfer, "THREADS", 1)
    s3.faults = [None, None, None, Refuse(403, "AccessDenied")]  # the listing, the sign, one file
    assert "access denied" in refusal(lambda: upload(written, url))
    assert "cut off" in refusal(lambda: download(url))
    s3.asked, s3.faults = [], []
    upload(written, url)
    assert 1 <= len([path for path in requests(s3, "PUT") if MARK not in path]) <= 3
    assert contents(download(url)) == contents(written)


def test_a_download_that_was_cut_off_goes_on(bucket, s3, cache, written, monkeypatch):
    url = f"s3://{bucket({})}/out"
    upload(written, url)
    monkeypatch.setattr(transfer, "THREADS", 1)
    s3.asked, s3.faults = [], [None, None, None, Refuse(403, "AccessDenied")]
    assert "access denied" in refusal(lambda: download(url))
    assert [path.suffix for path in cache.iterdir() if path.is_dir() and path.name != "locks"] == [".partial"]
    s3.asked, s3.faults = [], []
    assert contents(download(url)) == contents(written)
    assert 1 <= len(requests(s3, "GET")) <= 3, "those that were there are not fetched again"


def test_an_object_that_changes_while_a_folder_is_copied_is_told(bucket, s3, s3_client, cache, written):
    name = bucket({})
    upload(written, f"s3://{name}/out")
    s3.faults = [None, *[Cut(0, then=lambda: s3_client.put_object(Bucket=name, Key="out/a.txt", Body=b"new"))] * 5]
    assert "changed while it was read" in refusal(lambda: download(f"s3://{name}/out"))


def download_there(url):
    return download(url), os.getpid()


def test_processes_that_want_the_same_folder_fetch_it_once(bucket, s3, cache, written):
    url = f"s3://{bucket({})}/out"
    upload(written, url)
    s3.asked = []
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        found = dict(pool.map(download_there, [url] * 8))
    assert len(found) == 1
    assert contents(next(iter(found))) == contents(written)
    assert len(requests(s3, "GET")) == len(contents(written))


def test_another_machine_gets_the_same_folder_or_none(bucket, cache, written, tmp_path):
    url = f"s3://{bucket({})}/out"
    upload(written, url)
    there = tmp_path / "elsewhere" / download(url).name
    assert download(url, there) == there
    assert contents(there) == contents(written)
    upload(rewrite(written, {"a.txt": b"two"}), url)
    assert download(url, there) == there, "it is there"
    assert "was changed since this run began" in refusal(lambda: download(url, there.with_name("another")))


def test_nothing_below_an_address_is_told_by_it(bucket, cache):
    name = bucket({"outside": b"1"})
    said = refusal(lambda: download(f"s3://{name}/out"))
    assert said == f"s3://{name}/out: there is nothing below it; fix the address, or run the stage that writes it"


def test_a_name_that_leads_out_of_the_folder_is_refused(bucket, cache, tmp_path):
    name = bucket({"out/x/../../../evil": b"1"})
    assert "leads out of the folder" in refusal(lambda: download(f"s3://{name}/out"))
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("stays_here", [True, False])
def test_stages_read_and_write_buckets(bucket, s3, cache, tmp_path, stays_here, capfd):
    root = tmp_path / "data" if stays_here else f"s3://{bucket({})}/runs/one"
    sizes = {"drives": 6, "frames_per_drive": 2, "height": 96, "width": 128}
    words = ["--params", json.dumps({"ingest": {"synthetic": sizes}, "validate": {"min_pairs": 2}})]
    assert main(["ingest", *words, "--out", f"{root}/ingest"]) == 0, capfd.readouterr().err
    validate = ["validate", *words, "--manifest", f"{root}/ingest"]
    assert main([*validate, "--out", f"{root}/validate", "--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db"]) == 0
    found = tmp_path / "data/validate" if stays_here else download(f"{root}/validate")
    assert json.loads((found / "validation.json").read_text())
    assert (found / "docs/index.html").is_file()
    assert main([*validate, "--out", str(root)]) == StageError.exit_code
    assert "would replace --manifest" in capfd.readouterr().err
