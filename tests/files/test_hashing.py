"""Hashes of files and folders."""

from segline.files.hashing import file_hash, file_md5, tree_hash


def test_the_hashes_of_a_file_are_those_of_the_standards(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-4, the example "abc".
    assert file_hash(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    # RFC 1321, the same example.
    assert file_md5(tmp_path / "abc") == "900150983cd24fb0d6963f7d28e17f72"


def test_the_hash_of_a_folder_is_that_of_its_files(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "x").write_text("1")
        (tmp_path / name / ".segline").write_text(name)
    assert tree_hash(tmp_path / "a") == tree_hash(tmp_path / "b")
    (tmp_path / "b" / "deep" / "x").write_text("2")
    changed = tree_hash(tmp_path / "b")
    (tmp_path / "b" / "deep" / "x").rename(tmp_path / "b" / "deep" / "y")
    assert len({tree_hash(tmp_path / "a"), changed, tree_hash(tmp_path / "b")}) == 3
