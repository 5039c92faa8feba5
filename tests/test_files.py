import numpy as np
import pytest

from adaconv_jax.files import replacing, tensor_fault


def test_a_file_appears_only_when_the_block_is_left(tmp_path):
  path = tmp_path / "folder" / "image.png"
  with replacing(path) as temporary:
    assert temporary.parent == path.parent and temporary.suffix == ".png"
    temporary.write_text("new")
    assert not path.exists()
  assert path.read_text() == "new"
  assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
  path = tmp_path / "file"
  path.write_text("old")
  with pytest.raises(RuntimeError, match="half"), replacing(path) as temporary:
    temporary.write_text("half")
    raise RuntimeError("half")
  assert path.read_text() == "old"
  assert list(tmp_path.iterdir()) == [path]


def test_two_writers_do_not_touch_each_others_temporary_file(tmp_path):
  with replacing(tmp_path / "file") as first, replacing(tmp_path / "file") as second:
    assert first != second
    first.write_text("first")
    second.write_text("second")
  assert (tmp_path / "file").read_text() == "first"  # the last to finish


def test_a_fault_of_tensors_is_named_and_float16_is_none():
  shapes: dict[str, tuple[int, ...]] = {"a": (2,), "b": (1, 3)}
  good = {"a": np.zeros(2, np.float16), "b": np.zeros((1, 3), np.float32)}
  assert tensor_fault(good, shapes) is None
  assert tensor_fault({"b": good["b"]}, shapes) == "a is missing"
  assert tensor_fault(good | {"c": good["a"]}, shapes) == "c is unexpected"
  wrong = "b should be float32 or float16 [1, 3], got "
  assert tensor_fault(good | {"b": np.zeros(3, np.float32)}, shapes) == wrong + "float32 [3]"
  assert tensor_fault(good | {"b": np.zeros((1, 3))}, shapes) == wrong + "float64 [1, 3]"
