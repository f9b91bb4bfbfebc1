"""Exclusions: what is read from the file, and class ids masked pixel by pixel."""

import numpy as np
import pytest

from segline.classes import IGNORED
from segline.data.exclusions import Exclusions, read_exclusions
from segline.errors import DataError

HEADER = "key,top,left,height,width,reason\n"


@pytest.fixture
def read(tmp_path):
    def write_and_read(content):
        path = tmp_path / "exclusions.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_exclusions(path)

    return write_and_read


def test_a_row_with_a_box_is_a_region_and_one_without_the_whole_image(read):
    found = read(HEADER + "a,1,2,3,4,a car\nb,,,,,fog\na,0,0,5,6,\nc\n")
    assert found.keys == {"b", "c"}
    assert found.boxes("a") == ((1, 2, 3, 4), (0, 0, 5, 6))
    assert found.boxes("b") == found.boxes("z") == ()
    assert found.unknown(["a", "d"]) == ["b", "c"]


@pytest.mark.parametrize("content", ["", "\n\n", HEADER, HEADER.strip(), HEADER + ",,,,,\n\n"])
def test_a_file_without_rows_excludes_nothing(read, content):
    assert read(content) == Exclusions()


def test_a_file_of_keys_alone_leaves_out_whole_images(read):
    assert read("key\na\nb\n").keys == {"a", "b"}


def test_the_list_of_evaluate_is_such_a_file_copied_or_pasted_or_appended(read):
    listed = "key,top,left,height,width,class,pixels,confidence,split\na,1,2,3,4,car,9,0.9900,train\n"
    copied, pasted, appended = read(listed), read(HEADER + listed.splitlines()[1]), read(HEADER + "b\n" + listed)
    assert copied.boxes("a") == pasted.boxes("a") == appended.boxes("a") == ((1, 2, 3, 4),)
    assert (copied.keys, pasted.keys, appended.keys) == (set(), set(), {"b"})


def test_another_order_of_columns_is_read_by_their_names(read):
    assert read("width,height,key,left,top\n4,3,a,2,1\n") == read(HEADER + "a,1,2,3,4,\n")


def test_what_a_spreadsheet_writes_is_read(read):
    text = '\ufeff"key","top","left","height","width","reason"\r\n"a, b","1","2","3","4","""no"" label,\r\nnone"\r\n'
    assert read(text).boxes("a, b") == ((1, 2, 3, 4),)


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        ("name,top,left,height,width\n", 1, "got the columns 'name, top, left, height, width', expected 'key, top, "),
        ("key;top;left;height;width\n", 1, "got the columns 'key;top;left;height;width', expected 'key, top, left, "),
        ("key,top,left\na,1,2\n", 1, "got the columns 'key, top, left', expected 'key, top, left, height, width'"),
        ("\nkey,top,left,heigth,width\na,1,2,3,4\n", 2, "heigth, width', expected"),
        (HEADER + "a,1,2,3,4\n\n,1,2,3,4\n", 4, "got no key"),
        (HEADER + "a,1,2,,4\n", 2, "got only top, left, width, expected top, left, height, width, or none"),
        (HEADER + "a,1,2,3\n", 2, "got only top, left, height"),
        (HEADER + "a,1,2,0,4\n", 2, "height: got '0', expected a whole number of px, at least 1"),
        (HEADER + "a,-1,2,3,4\n", 2, "top: got '-1', expected a whole number of px, at least 0"),
        (HEADER + "a,1,2.0,3,4\n", 2, "left: got '2.0', expected a whole number"),
        (HEADER + "a,1,2,3,wide\n", 2, "width: got 'wide', expected a whole number"),
        (HEADER + f"a,1,2,3,4,{'x' * 200_000}\n", 2, "field larger"),
    ],
)
def test_a_wrong_file_is_refused_with_line_and_reason(read, tmp_path, content, line, said):
    with pytest.raises(DataError) as caught:
        read(content)
    assert f"{tmp_path}/exclusions.csv, line {line}: " in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_refused(read):
    with pytest.raises(DataError, match=r"exclusions\.csv: got a file that is not UTF-8 text, expected CSV in UTF-8"):
        read(b"key\n\xff\xfe")


def test_the_hash_is_that_of_what_is_excluded(read):
    one = read(HEADER + "a,1,2,3,4,why\nb\na,0,0,1,1\n")
    same = read("key,left,top,width,height\na,0,0,1,1\na,2,1,4,3\na,2,1,4,3\nb\n")
    assert one.hash == same.hash
    others = ["a,1,2,3,4\nb\n", "a,1,2,3,4\nc\na,0,0,1,1\n", "b,1,2,3,4\na\nb,0,0,1,1\n", "a,2,1,3,4\nb\n", ""]
    hashes = {one.hash, *(read(HEADER + rows).hash for rows in others)}
    assert len(hashes) == len(others) + 1
    assert read(HEADER).hash == Exclusions().hash


@pytest.mark.parametrize("corner", [(0, 0), (3, 0), (2, 4), (9, 9)])
def test_the_mask_ignores_every_pixel_of_a_box_and_no_other(read, corner):
    rng = np.random.default_rng(0)
    boxes = [(0, 0, 2, 3), (4, 5, 3, 2), (5, 6, 30, 30), (7, 0, 1, 1)]
    found = read(HEADER + "".join(f"a,{','.join(map(str, box))},\n" for box in boxes))
    ids = rng.integers(0, 4, (6, 5), np.uint8)
    before, expected = ids.copy(), ids.copy()
    for row, column in np.ndindex(ids.shape):
        y, x = row + corner[0], column + corner[1]
        if any(top <= y < top + height and left <= x < left + width for top, left, height, width in boxes):
            expected[row, column] = IGNORED
    np.testing.assert_array_equal(found.mask(ids, "a", corner), expected)
    np.testing.assert_array_equal(ids, before)


def test_without_a_box_in_it_there_is_no_mask(read):
    found = read(HEADER + "a,4,5,3,2\nb\n")
    ids = np.zeros((6, 8), np.uint8)
    assert found.mask(ids, "a") is not None
    assert found.mask(ids, "b") is found.mask(ids, "z") is None
    assert found.mask(ids, "a", (7, 0)) is None
    assert found.mask(ids, "a", (0, 7)) is None
    assert found.mask(ids[:4], "a") is None
