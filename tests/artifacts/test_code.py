"""Each artifact declares the code that it depends on: what its stage imports, but for what is left out."""

import ast
import os

import pytest
from imports import closure, path_of

from segline.artifacts import code
from segline.artifacts.code import LEFT_OUT, LEFT_OUT_OF, code_hash, dvc_dependencies, source_files
from segline.artifacts.table import ARTIFACTS

STAGE = pytest.mark.parametrize("stage", ARTIFACTS)


def left_out_of(stage):
    return LEFT_OUT | LEFT_OUT_OF.get(ARTIFACTS[stage].name, {})


def module_name(path):
    name = ".".join(path.relative_to(code.SOURCE).with_suffix("").parts)
    return name.removesuffix(".__init__")


def declared(stage):
    return {module_name(file) for name in ARTIFACTS[stage].code for file in source_files(name)}


def imported(stage):
    return closure(f"segline.stages.{stage}", left_out_of(stage))


def holds_only_a_docstring(module):
    return all(isinstance(node, ast.Expr) for node in ast.parse(path_of(module).read_text()).body)


@STAGE
def test_what_a_stage_imports_is_declared_or_left_out(stage):
    missing = {name for name in imported(stage) - declared(stage) if not holds_only_a_docstring(name)}
    assert sorted(missing) == []


@STAGE
def test_nothing_is_declared_that_a_stage_does_not_import(stage):
    unused = {name for name in declared(stage) - imported(stage) if not holds_only_a_docstring(name)}
    assert sorted(unused) == []


def test_every_module_that_is_left_out_is_there_and_has_a_reason():
    for names in (LEFT_OUT, *LEFT_OUT_OF.values()):
        for name, reason in names.items():
            assert path_of(name), name
            assert reason.endswith("."), name


@STAGE
def test_nothing_is_left_out_that_a_stage_would_not_import(stage):
    everything = closure(f"segline.stages.{stage}")
    assert [name for name in LEFT_OUT_OF.get(ARTIFACTS[stage].name, {}) if name not in everything] == []


def test_the_renderer_of_streets_changes_the_manifest_alone():
    users = [stage for stage in ARTIFACTS if any(name.startswith("streets") for name in declared(stage))]
    assert users == ["ingest"]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A folder with a small package in segline's place."""
    for name in ("tracking.py", "models/__init__.py", "models/unet.py", "models/deep/block.py"):
        (tmp_path / "segline" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "segline" / name).write_text(f"# {name}\n")
    monkeypatch.setattr(code, "SOURCE", tmp_path)
    return tmp_path / "segline"


def change(package):
    (package / "models" / "deep" / "block.py").write_text("# another\n")


def add(package):
    (package / "models" / "deep" / "new.py").touch()


def rename(package):
    os.rename(package / "models" / "unet.py", package / "models" / "vnet.py")


def remove(package):
    (package / "models" / "unet.py").unlink()


@pytest.mark.parametrize("edit", [change, add, rename, remove])
def test_the_hash_changes_with_any_source_file_that_is_named(package, edit):
    before, other = code_hash(("segline.models", "segline.tracking")), code_hash(("segline.tracking",))
    assert code_hash(("segline.models", "segline.tracking")) == before
    edit(package)
    assert code_hash(("segline.models", "segline.tracking")) != before
    assert code_hash(("segline.tracking",)) == other


def test_the_hash_does_not_see_other_files(package):
    before = code_hash(("segline.models.deep", "segline.tracking"))
    (package / "models" / "deep" / "block.pyc").write_bytes(b"1")
    (package / "models" / "unet.py").write_text("# another\n")
    assert code_hash(("segline.models.deep", "segline.tracking")) == before
    assert code_hash(("segline.models.deep.block",)) != code_hash(("segline.models.unet",))


def test_a_module_that_is_not_there_has_no_hash():
    with pytest.raises(FileNotFoundError):
        code_hash(("segline.model",))


def test_a_package_is_a_folder_for_dvc():
    assert list(dvc_dependencies(["streets", "segline.classes"])) == ["src/segline/classes.py", "src/streets"]
