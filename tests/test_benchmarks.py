"""What the benchmarks claim about themselves; timings are not tested."""

import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaconv_jax.models.build import init_params, make_model
from adaconv_jax.models.stylizer import Stylizer
from adaconv_jax.ops.conv import conv
from adaconv_jax.vgg.network import VGG
from benchmarks import case as cases
from benchmarks import (
  exports,
  flops,
  gpu_forms,
  memory,
  prints,
  report,
  rows,
  stylizing,
  timing,
  tpu_steps,
  tpu_traffic,
  training_step,
)
from benchmarks.case import Case, image_difference

SETTINGS = {"adain": {}, "adaconv": {"style_dim": 8, "encoder_width": 8, "style_size": 64}}


def xla_flops(function, *args) -> float:
  """XLA's count for a TPU, without having one; on CPU a convolution is many operations."""
  cost: Any = jax.jit(function).trace(*args).lower(lowering_platforms=("tpu",)).cost_analysis()
  return cost["flops"]


def array(*shape: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def abstract_stylizer(transform: str, arch: str) -> Stylizer:
  model, vgg = make_model(transform, SETTINGS[transform]), VGG(arch)
  params = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
  image = jnp.zeros((1, 32, 32, 3))
  weights: Any = jax.eval_shape(lambda key: vgg.init(key, image, ("relu4_1",)), jax.random.key(0))
  return Stylizer(params, weights["params"], model, vgg)


def test_flops_of_a_convolution_are_two_per_tap_and_channel_pair():
  assert flops.conv(3, 5, 7, 11) == 2 * 9 * 3 * 5 * 7 * 11
  assert flops.conv(8, 4, 2, 2, k=1, groups=4) == 2 * 2 * 4 * 4


def test_flops_of_a_convolution_equal_xla_s_count():
  counted = xla_flops(conv, array(1, 16, 24, 32), array(3, 3, 32, 48))
  assert flops.conv(32, 48, 16, 24) == pytest.approx(counted, rel=0.01)


@pytest.mark.parametrize("arch", ["vgg16", "vgg19"])
def test_flops_of_an_adain_pair_equal_xla_s_count(arch):
  stylizer, image = abstract_stylizer("adain", arch), array(1, 256, 256, 3)
  counted = xla_flops(stylizing.stylize_pair, stylizer, image, image)
  # XLA's number includes normalizations.
  assert flops.pair(make_model("adain"), arch, 256) == pytest.approx(counted, rel=0.05)


def test_flops_of_a_style_s_kernels_equal_xla_s_count():
  model = make_model("adaconv")
  params = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
  encode = lambda params, features: model.apply(  # noqa: E731
    {"params": params}, features, method="encode_style"
  )
  counted = xla_flops(encode, params, array(1, 32, 32, 512))
  assert sum(flops.style_layers(model)) == pytest.approx(counted, rel=0.02)


def test_adaconv_s_operations_are_few_beside_the_fixed_convolutions():
  model = make_model("adaconv")
  grouped = flops.transform(model, 256, 256)
  by_hand = (
    2
    * 256
    * 256
    * sum(
      channels * group * 10 / 64 * 4**scale
      for scale, (channels, group) in enumerate([(512, 1), (256, 2), (128, 4), (64, 8)])
    )
  )
  assert grouped == by_hand
  assert flops.transform(make_model("adain"), 256, 256) == 0


@pytest.mark.parametrize("transform", ["adain", "adaconv"])
def test_training_takes_two_to_three_times_the_operations_of_a_pair(transform):
  model = make_model(transform)
  ratio = flops.training_pair(model, "vgg16", 256) / flops.pair(model, "vgg16", 256)
  assert 2 < ratio < 3


def a_case(**changes: Any) -> Case:
  values: dict[str, Any] = dict(
    row="3", name="grid", gflop=100.0, ours=list, peer=list, target=1.5, peer_share=0.25, pairs=4
  )
  return Case(**values | changes)


def test_ratio_is_the_peer_s_scaled_median_over_ours():
  times = timing.Timings((2.0, 9.0, 2.0), (1.0, 1.0, 5.0))
  line = report.case_line(a_case(), times, 1e-6)
  assert (line.ours, line.peer, line.ratio, line.met) == (2.0, 4.0, 2.0, True)
  assert line.gflops == (50.0, 25.0)
  assert line.rate == 2.0


def test_slowdown_is_ours_over_the_peer_and_at_most_its_target():
  times = timing.Timings((3.0,), (2.0,))
  line = report.case_line(a_case(slowdown=True, peer_share=1.0, target=1.25), times, None)
  assert (line.ratio, line.met) == (1.5, False)
  assert report.cells(line)[4:7] == ["1.50", "at most 1.25", "missed"]


def test_table_is_markdown_with_a_cell_per_column():
  line = report.Line("1", "pair", ours=0.0123, memory=(2_500_000, None))
  lines = report.markdown(report.HEADER, [report.cells(line)]).splitlines()
  assert len({len(text) for text in lines}) == 1
  assert all(text.count("|") == len(report.HEADER) + 1 for text in lines)
  assert "12.3 ms" in lines[2]
  assert set(lines[1]) == set("|- ")


@pytest.mark.parametrize(
  "seconds, text",
  [(None, "–"), (0.01234, "12.3 ms"), (0.9999, "1 s"), (75.25, "75.2 s"), (1234.5, "1234 s")],
)
def test_seconds_have_a_unit(seconds, text):
  assert report.format_seconds(seconds) == text


@pytest.mark.parametrize(("short", "calls_per_turn"), [(10.0, 2), (0.0, 1)])
def test_both_sides_take_turns_and_short_calls_are_warm(short, calls_per_turn, monkeypatch):
  monkeypatch.setattr(timing, "SHORT_SECONDS", short)
  calls = []
  times = timing.alternate(lambda: calls.append("ours"), lambda: calls.append("peer"), 2)
  assert calls == (["ours"] * calls_per_turn + ["peer"] * calls_per_turn) * 2
  assert len(times.ours) == len(times.peer) == 2


def test_sides_that_differ_are_an_error():
  number = a_case(difference=cases.number_difference, checks=2)
  assert cases.check(number, lambda: np.array([1.0005]), lambda: 1.0) == pytest.approx(5e-4)
  with pytest.raises(ValueError, match="grid: the two sides differ by 0.1"):
    cases.check(number, lambda: np.array([1.1]), lambda: 1.0)


def test_flat_images_do_not_pass_as_equal():
  with pytest.raises(ValueError, match="flat"):
    image_difference([np.full((1, 4, 4, 3), 0.5)], [None])


def test_names_of_cases_are_unique():
  for quick in (False, True):
    names = [case.name for case in rows.cases(quick=quick)]
    assert len(set(names)) == len(names)


def test_a_process_is_watched_and_its_failure_reported():
  code = "b = bytearray(60_000_000); b[::1000] = b[::1000]; print(len(b))"
  done = memory.watch([sys.executable, "-c", code])
  assert done.output == "60000000\n" and not done.stopped
  with pytest.raises(RuntimeError, match="out of cheese"):
    memory.watch([sys.executable, "-c", "raise SystemExit('out of cheese')"])


def test_a_process_that_takes_too_much_memory_is_stopped(monkeypatch):
  if memory.status("VmHWM") is None:
    pytest.skip("no /proc here")
  monkeypatch.setattr(memory, "free_memory", lambda: 50_000_000)
  code = "import time; b = bytearray(90_000_000); b[::1000] = b[::1000]; time.sleep(60)"
  done = memory.watch([sys.executable, "-c", code])
  assert done.stopped and done.seconds < 30


@pytest.mark.parametrize("transform, count", [("adain", 1), ("adaconv", 2)])
def test_peer_gives_the_same_images(transform, count):
  pytest.importorskip("torch")
  case = stylizing.pair_case("", transform, 64, count, target=0)
  difference = cases.check(case, case.ours(), case.peer())
  assert difference is not None and difference < 1e-3


@pytest.mark.slow
def test_peer_trains_with_the_same_loss():
  pytest.importorskip("torch")
  case = training_step.step_case("adain", 1, 64)
  assert cases.check(case, case.ours(), case.peer()) is not None


# Prints.


def test_a_print_is_compared_at_the_size_of_its_preview():
  rng = np.random.default_rng(0)
  small = rng.integers(0, 256, (24, 24, 3), np.uint8)
  levels, same = prints.compare(small, small)
  assert levels == 0 and same == pytest.approx(1)
  assert prints.compare(small, 255 - small)[0] > 30
  soft = prints.scaled(prints.scaled(small, 12), 24)
  assert prints.sharpness(soft) < 0.5 * prints.sharpness(small)


# Exports.


@pytest.mark.slow
def test_runtimes_of_exports_are_compared_with_ours_in_one_table(capsys):
  pytest.importorskip("onnx")
  pytest.importorskip("onnxruntime")
  exports.main(["--quick"])
  printed = capsys.readouterr().out
  assert "processor: " in printed and "onnxruntime: " in printed
  rows = [line.split("|")[1:-1] for line in printed.splitlines() if line.startswith("|")]
  names = [row[0].strip() for row in rows[2:]]
  assert names[:4] == list(exports.RUNTIMES)[:4]
  ours = rows[2]
  assert (float(ours[2]), float(ours[4])) == (1, 1)
  assert all(float(row[3]) > 0 for row in rows[2:])  # megabytes; few at this size


@pytest.mark.parametrize(
  "form, calls, groups, flops_per_pixel",
  [
    # Per image: the product of the kernels, and a dense convolution of 8 to 8 channels.
    ("one group per image", 2, 2, 2 * 9 * 8 * 8),
    ("image by image", 4, 1, 2 * 9 * 8 * 8),
    # 4 groups of 2 channels.
    ("as published", 2, 8, 2 * (9 + 1) * 2 * 8),
    ("groups of channels", 2, 8, 2 * 9 * 2 * 8),
  ],
)
def test_what_the_operation_becomes_on_a_gpu_is_counted(form, calls, groups, flops_per_pixel):
  n, side, c, group = 2, 6, 8, 2
  shapes = [(n, side, side, c), (n, 3, 3, group, c), (n, 1, 1, group, c), (n, c)]
  function = functools.partial(gpu_forms.FORMS[form], groups=c // group)
  found = gpu_forms.counted(function, *shapes)
  # The product of the kernels: two channels of the spatial one for each of the result's.
  product = 0 if form == "as published" else n * 2 * 9 * group * group * c
  assert (found.calls, found.groups) == (calls, groups)
  assert found.flops == n * side * side * flops_per_pixel + product
  forms = [jax.jit(functools.partial(f, groups=c // group)) for f in gpu_forms.FORMS.values()]
  arrays = [np.random.default_rng(0).standard_normal(shape, np.float32) for shape in shapes]
  first, *others = [made(*arrays) for made in forms]
  for other in others:
    np.testing.assert_allclose(first, other, atol=1e-4)


def test_traffic_of_a_step_is_what_its_instructions_read_and_write_by_part():
  hlo = """
%fused (a: f32[9]) -> f32[9] { ROOT %no = f32[9]{0} add(%a, %a), metadata={op_name="jit(f)/VGG"} }
ENTRY %main (x: bf16[2,8]) -> f32[4] {
  %x = bf16[2,8]{1,0} parameter(0)
  %view = bf16[16]{0} bitcast(%x)
  %made = (f32[4]{0}, pred[3]{0}) fusion(%view, %x), kind=kLoop, metadata={op_name="jvp(VGG)/conv"}
  ROOT %out = f32[4]{0} fusion(%made), metadata={op_name="transpose(jvp(m))/decode_scale/conv"}
}
"""
  assert tpu_traffic.traffic(hlo) == {
    ("VGG", False): 19 + 32 + 32,
    ("convolutions of the decoder", True): 16 + 19,
  }


@pytest.mark.parametrize("share", [0.93, 1.0, 1.07])
@pytest.mark.parametrize(
  ("fixed", "each", "grows"),
  [(0.7, 0.25, 0), (0, 0.3, 0), (10, 0.5, 0), (0.1, 0.2, 0.003), (0.4, 0.15, -3e-4), (0, 0.02, 0)],
)
def test_a_batch_that_nearly_fills_the_memory_is_found_in_few_compilations(
  fixed, each, grows, share, monkeypatch
):
  tried, quickly = [], []
  needs = lambda pairs: fixed + each * pairs + grows * pairs**2  # noqa: E731

  def in_process(name, dtype, text, pairs, quick=False):
    (quickly if quick else tried).append(pairs)
    needed = needs(pairs) * (share if quick else 1)
    return {"pairs": pairs} | ({"memory": needed} if needed <= 16 else {})

  monkeypatch.setattr(tpu_steps, "in_process", in_process)
  found: Any = tpu_steps.largest("adain", "bfloat16", "v5litepod-8")
  assert 0.8 * 16 <= needs(found["pairs"]) <= 16
  assert found["too_many"] is None or found["too_many"] in tried + quickly
  assert len(tried) <= 2 and len(quickly) <= 5
