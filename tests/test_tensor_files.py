import numpy as np

from adaconv_jax.tensor_files import tensor_fault


def test_a_fault_of_tensors_is_named_and_float16_is_none():
  shapes: dict[str, tuple[int, ...]] = {"a": (2,), "b": (1, 3)}
  good = {"a": np.zeros(2, np.float16), "b": np.zeros((1, 3), np.float32)}
  assert tensor_fault(good, shapes) is None
  assert tensor_fault({"b": good["b"]}, shapes) == "a is missing"
  assert tensor_fault(good | {"c": good["a"]}, shapes) == "c is unexpected"
  wrong = "b should be float32 or float16 [1, 3], got "
  assert tensor_fault(good | {"b": np.zeros(3, np.float32)}, shapes) == wrong + "float32 [3]"
  assert tensor_fault(good | {"b": np.zeros((1, 3))}, shapes) == wrong + "float64 [1, 3]"
