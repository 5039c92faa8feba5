"""What a style's code of a model looks like, and whether a given one does."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adaconv_jax.models.decoder import SCALES
from adaconv_jax.models.style_code import StyleCode
from adaconv_jax.models.transfer_model import Params, TransferModel
from adaconv_jax.ops.conv import only_shapes
from adaconv_jax.vgg.network import STRIDE


def check_codes(
  model: TransferModel, params: Params, code: Any, contents: int, masks: Any
) -> list[StyleCode]:
  """Returns the codes of a rendering: one, or with masks one per mask.

  Raises:
    ValueError: they are not those of this model, or not as many as the masks or the contents.
  """
  if (masks is not None) != isinstance(code, list):
    raise ValueError(
      "code and masks: expected a list of codes beside masks, one for each, and one code without; "
      f"got {kind_of(code)} and masks {None if masks is None else list(np.shape(masks))}"
    )
  codes = code if isinstance(code, list) else [code]
  if not codes:
    raise ValueError("code: expected at least one, got an empty list")
  for one in codes:
    check_code(model, params, one)
    styles = jax.tree.leaves(one)[0].shape[0]
    if styles not in (1, contents):
      raise ValueError(
        f"code: expected one style, or one for each of {contents} contents, got {styles}"
      )
  return codes


def check_code(model: TransferModel, params: Params, code: Any) -> None:
  """Checks that a code is one of this model, whatever its number of styles.

  Raises:
    ValueError: it is not.
  """
  expected = code_shapes(model, params)
  leaves, tree = jax.tree.flatten(code)
  shapes = [np.shape(leaf) for leaf in leaves]
  name = f"code: expected what encode_style of this model ({model.transform}) returns"
  if tree != jax.tree.structure(expected):
    raise ValueError(
      f"{name}, got {kind_of(code)}; encode the style with this model first: "
      "code = model.encode_style(style)"
    )
  wanted = [leaf.shape[1:] for leaf in jax.tree.leaves(expected)]
  if [shape[1:] for shape in shapes] == wanted and len({shape[:1] for shape in shapes}) == 1:
    return
  if shapes == wanted:
    raise ValueError(
      f"{name}, with a leading axis for the styles, got one style without it; add it again: "
      "jax.tree.map(lambda x: x[None], code)"
    )
  pairs = zip(shapes, wanted, strict=True)
  got, shape = next((pair for pair in pairs if pair[0][1:] != pair[1]), (shapes[0], wanted[0]))
  raise ValueError(f"{name}, arrays {['n', *shape]} of one n, got {list(got)}")


def code_shapes(model: TransferModel, params: Params) -> StyleCode:
  """Returns the shapes and types of a code of one style, `jax.ShapeDtypeStruct`."""
  like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), params)
  leaves, tree = jax.tree.flatten(like)
  return _traced_shapes(model, tuple(leaves), tree)


@functools.lru_cache(maxsize=16)
def _traced_shapes(model: TransferModel, leaves: tuple[Any, ...], tree: Any) -> StyleCode:
  """Traces the model's `encode_style`, once per model."""
  params = jax.tree.unflatten(tree, leaves)
  # Of the model alone, because tracing VGG would take most of the time.
  side = 2 if model.style_size is None else model.style_size // STRIDE
  features = jax.ShapeDtypeStruct((1, side, side, SCALES[0][0]), jnp.float32)

  def encode(params: Params, features: jax.Array) -> StyleCode:
    return model.apply({"params": params}, features, None, method="encode_style")

  # Constants of the program are transferred to the device, which the user may have disallowed.
  with jax.transfer_guard("allow"), only_shapes():
    return jax.eval_shape(encode, params, features)


def kind_of(value: Any) -> str:
  """Describes a value in an error."""
  if value is None:
    return "None"
  shape = getattr(value, "shape", None)
  return type(value).__name__ if shape is None else f"an array of the shape {list(shape)}"
