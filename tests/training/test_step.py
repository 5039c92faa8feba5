import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import SETTINGS, small_stylizer

from adaconv_jax.models.build import init_params, make_model
from adaconv_jax.ops import losses
from adaconv_jax.training import devices, objective, optimizer
from adaconv_jax.training import state as states
from adaconv_jax.training import step as training
from adaconv_jax.vgg.network import ENCODER_LAYER, STYLE_LAYERS, VGG
from configs import adaconv, adain

WEIGHTS = objective.LossWeights(
  content=1.5, style=7.0, layers={"relu1_1": 1.0, "relu4_1": 0.5}, pixel=3.0, style_ramp_steps=4
)


def batch(size=2, seed=0):
  rng = np.random.default_rng(seed)
  return {
    "content": rng.integers(0, 256, (size, 16, 16, 3), np.uint8),
    "style": rng.integers(0, 256, (size, 64, 64, 3), np.uint8),
  }


@pytest.mark.slow
@pytest.mark.parametrize("transform", [pytest.param("adain", marks=pytest.mark.slow), "adaconv"])
def test_transfer_loss_is_the_papers_sum(transform):
  stylizer, data = small_stylizer(transform), batch()
  loss = objective.make_loss(stylizer.model, stylizer.vgg, WEIGHTS, reconstruct=False)
  total, metrics = jax.jit(loss)(stylizer.params, stylizer.vgg_params, data, 0.5)

  @jax.jit
  def parts(content, style):
    def features(x) -> Any:
      return stylizer.vgg.apply({"params": stylizer.vgg_params}, x, STYLE_LAYERS)

    def apply(*args, method) -> Any:
      return stylizer.model.apply({"params": stylizer.params}, *args, method=method)

    f_c, f_s = features(content), features(style)
    code = apply(f_s[ENCODER_LAYER], method="encode_style")
    target = apply(f_c[ENCODER_LAYER], code, method="content_target")
    f_o = features(apply(target, code, method="decode"))
    return (
      losses.content_loss(f_o[ENCODER_LAYER], target),
      losses.style_loss(f_o, f_s, WEIGHTS.layers),
    )

  content, style = parts(*(jnp.asarray(data[k]) / 255 for k in ("content", "style")))
  np.testing.assert_allclose(metrics["content_loss"], content, rtol=1e-4)
  np.testing.assert_allclose(metrics["style_loss"], style, rtol=1e-4)
  np.testing.assert_allclose(total, 1.5 * content + 7.0 * 0.5 * style, rtol=1e-4)


@pytest.mark.parametrize("transform", ["adain", pytest.param("adaconv", marks=pytest.mark.slow)])
def test_evaluation_is_the_mean_over_the_pairs_that_have_a_weight(transform):
  stylizer, (first, second) = small_stylizer(transform), (batch(seed=seed) for seed in (0, 1))
  loss = jax.jit(objective.make_loss(stylizer.model, stylizer.vgg, WEIGHTS, reconstruct=False))
  means = [loss(stylizer.params, stylizer.vgg_params, data, 0.5)[1] for data in (first, second)]
  step = training.make_eval_step(stylizer.model, stylizer.vgg, WEIGHTS.layers)
  params, vgg_params = (devices.replicate(tree) for tree in (stylizer.params, stylizer.vgg_params))
  # A style of the wrong pair would be noticed, and so would a pair of weight 0.
  mixed = [{k: np.stack([a[k][i], b[k][j]]) for k in a} for a, b, i, j in (
    (second, first, 0, 0), (first, second, 1, 1)
  )]  # fmt: skip
  batches = [
    data | {"weight": np.asarray(weight, np.float32)}
    for data, weight in ((first, (1, 1)), (mixed[0], (1, 0)), (mixed[1], (0, 1)))
  ]
  got = training.evaluate(step, params, vgg_params, batches)
  assert got.keys() == {"content_loss", "style_loss"}
  for name, value in got.items():
    assert not np.isclose(means[0][name], means[1][name], rtol=1e-3)
    np.testing.assert_allclose(value, (means[0][name] + means[1][name]) / 2, rtol=1e-4)


def test_reconstruction_loss_ignores_the_styles_and_adds_the_pixels():
  stylizer, data = small_stylizer("adain"), batch()
  loss = jax.jit(objective.make_loss(stylizer.model, stylizer.vgg, WEIGHTS, reconstruct=True))
  total, metrics = loss(stylizer.params, stylizer.vgg_params, data, 1.0)
  other, _ = loss(stylizer.params, stylizer.vgg_params, data | {"style": batch(2, 1)["style"]}, 1.0)
  assert total == other
  assert "style_loss" not in metrics
  np.testing.assert_allclose(
    total, 1.5 * metrics["content_loss"] + 3.0 * metrics["pixel_loss"], rtol=1e-6
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  "term", ["checkerboard", "self_similarity", "palette", "detail", "structure", "evenness"]
)
def test_further_losses_of_the_output_are_added_by_weight_but_not_while_reconstructing(term):
  stylizer, data = small_stylizer("adain"), batch()
  weights = dataclasses.replace(WEIGHTS, **{term: 1e6})
  totals = []
  for weight in (WEIGHTS, weights):
    loss = jax.jit(objective.make_loss(stylizer.model, stylizer.vgg, weight, reconstruct=False))
    total, metrics = loss(stylizer.params, stylizer.vgg_params, data, 1.0)
    totals.append(total)
  style = jnp.asarray(data["style"], jnp.float32) / 255
  content = jnp.asarray(data["content"], jnp.float32) / 255
  features: Any = [
    stylizer.vgg.apply({"params": stylizer.vgg_params}, x, STYLE_LAYERS) for x in (content, style)
  ]
  output: Any = stylizer.model.apply(
    {"params": stylizer.params},
    *(maps[ENCODER_LAYER] for maps in features),
  )
  if term == "checkerboard":
    expected = losses.checkerboard_loss(output)
  elif term == "palette":
    expected = losses.palette_loss(losses.palette(output), losses.palette(style))
  elif term == "evenness":
    expected = losses.evenness_loss(output, content)
  else:
    maps: Any = stylizer.vgg.apply({"params": stylizer.vgg_params}, output, STYLE_LAYERS)
    expected = {
      "self_similarity": losses.self_similarity_loss(
        maps[ENCODER_LAYER], features[0][ENCODER_LAYER]
      ),
      "detail": losses.detail_loss(maps, features[0]),
      "structure": losses.structure_loss(maps[ENCODER_LAYER], features[0][ENCODER_LAYER]),
    }[term]
  assert expected > 0
  np.testing.assert_allclose(metrics[f"{term}_loss"], expected, rtol=1e-3)
  np.testing.assert_allclose(totals[1] - totals[0], 1e6 * expected, rtol=1e-3)
  first = objective.make_loss(stylizer.model, stylizer.vgg, weights, reconstruct=True)
  shapes = jax.eval_shape(first, stylizer.params, stylizer.vgg_params, data, 1.0)
  assert f"{term}_loss" not in shapes[1]


@pytest.mark.slow
def test_step_moves_all_parameters_ramps_the_style_weight_and_compiles_once(caplog):
  model, vgg = make_model("adaconv", SETTINGS["adaconv"]), VGG("vgg16")
  stylizer = small_stylizer("adaconv")

  def schedule(step):
    return 0.0 * step + 1e-3

  tx = optimizer.make_optimizer(schedule, 10.0)
  step = training.make_train_step(
    model, vgg, tx, schedule, WEIGHTS, reconstruct_steps=1, ema_decay=0.25
  )
  params = jax.tree.map(jnp.asarray, stylizer.params)
  before = jax.tree.map(np.asarray, params)
  first = states.create_state(params, tx, average=True)
  first = dataclasses.replace(first, step=jnp.ones((), jnp.int32))
  state = devices.replicate(first)
  vgg_params = devices.replicate(stylizer.vgg_params)
  ramp, averaged = [], before
  for decay in (2 / 11, 3 / 12):
    caplog.clear()
    with jax.log_compiles():
      state, metrics = step(state, vgg_params, devices.shard(batch(jax.local_device_count())))
    values = {name: float(devices.fetch(value)) for name, value in metrics.items()}
    rest = values["loss"] - WEIGHTS.content * values["content_loss"]
    ramp.append(rest / (WEIGHTS.style * values["style_loss"]))
    assert np.isclose(values["learning_rate"], 1e-3)
    averaged = jax.tree.map(
      lambda a, p, decay=decay: decay * a + (1 - decay) * p, averaged, devices.fetch(state.params)
    )
  assert "compil" not in caplog.text  # of the second step
  np.testing.assert_allclose(ramp, [0.25, 0.5], rtol=1e-3)
  after = devices.fetch(state)
  assert int(after.step) == 3
  for path, leaf in jax.tree.flatten_with_path(after.params)[0]:
    old = before
    for key in path:
      old = old[key.key]
    assert not np.array_equal(leaf, old), jax.tree_util.keystr(path)
  jax.tree.map(
    lambda got, expected: np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7),
    after.averaged,
    averaged,
  )


@pytest.mark.slow
@pytest.mark.parametrize("config", [adain, adaconv])
def test_published_configs_state_xla_s_number_of_operations(config):
  settings = config.get_config()
  model = make_model(settings.model.transform, settings.model.settings.to_dict())
  vgg = VGG(settings.model.vgg)
  weights = objective.LossWeights(1.0, 10.0, settings.loss.style_layers.to_dict())
  loss = objective.make_loss(model, vgg, weights, reconstruct=False)
  params = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
  image = jnp.zeros((1, 32, 32, 3))
  vgg_params = jax.eval_shape(lambda key: vgg.init(key, image), jax.random.key(0))["params"]
  pair = {}
  for role in ("content", "style"):
    crop = settings.data[f"{role}_crop"]
    pair[role] = jax.ShapeDtypeStruct((1, crop, crop, 3), jnp.uint8)
  gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
  # For a TPU, where a convolution is one operation.
  traced = gradient.trace(params, vgg_params, pair, 1.0)
  cost: Any = traced.lower(lowering_platforms=("tpu",)).cost_analysis()
  assert f"Cost: {cost['flops'] / 1e9:.0f} GFLOP per pair" in config.__doc__
