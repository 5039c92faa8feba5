"""The command line of the training."""

import logging
import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import app, flags
from ml_collections import config_flags

from adaconv_jax.checkpoints.errors import CheckpointError
from adaconv_jax.cli.compilation import keep_compiled
from adaconv_jax.host_cpu import keep_memory
from adaconv_jax.models.build import init_params
from adaconv_jax.training import aot
from adaconv_jax.training.devices import process_batch_size
from adaconv_jax.training.from_config import Config, make_networks, make_steps
from adaconv_jax.training.hosts import connect
from adaconv_jax.training.loop import train_and_evaluate
from adaconv_jax.training.state import create_state

log = logging.getLogger(__name__)

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, such as configs/adaconv.py.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder for checkpoints, logs and samples.")
DISTRIBUTED = flags.DEFINE_enum(
  "distributed",
  "auto",
  ["auto", "on", "off"],
  "Train on several hosts together: auto does so on Cloud TPU; on needs a cluster that JAX knows, "
  "or the three flags below.",
)
COORDINATOR = flags.DEFINE_string("coordinator", None, "Address and port of the first process.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "This process's number, from 0.")
AOT = flags.DEFINE_string(
  "aot",
  None,
  "A TPU topology such as v5e:2x4: compile the training step for it, say what it would need, and "
  "exit. Needs libtpu, but no TPU, no data and no --workdir.",
)


def compile_ahead(config: Config, topology: str) -> None:
  """Compiles the transfer step for a TPU topology and prints what it would need.

  Args:
    config: a ConfigDict as in `configs/`.
    topology: such as "v5e:2x4".

  Raises:
    ValueError: a setting is impossible, there is no such topology, or the step does not fit.
    FileNotFoundError: the TPU compiler is not installed.
  """
  # A program for TPUs that are not there cannot be loaded again.
  jax.config.update("jax_enable_compilation_cache", False)
  devices = aot.tpu_devices(topology)
  process_batch_size(config.batch_size, len(devices))
  model, vgg = make_networks(config)
  tx, _, step = make_steps(config, model, vgg, devices)
  state = jax.eval_shape(
    lambda: create_state(init_params(model, jax.random.key(0)), tx, average=config.ema_decay > 0)
  )
  vgg_params = jax.eval_shape(vgg.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
  data = config.data
  batch = aot.crops(config.batch_size, data.content_crop, data.style_crop)
  log.info("compiling a step of %d pairs for %s ...", config.batch_size, topology)
  needs = aot.compile_step(step, state, vgg_params, batch, len(devices))
  print(aot.report(needs, aot.memory_of(topology)))
  aot.check_fit(needs, aot.memory_of(topology))


def main(argv: list[str]) -> None:
  """Runs the command line; settings that are impossible end it with one message."""
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  # The libraries tell much that is of no use to whoever trains; we tell little.
  for name in (None, "absl"):
    logging.getLogger(name).setLevel(logging.WARNING)
  handler = logging.StreamHandler()
  handler.setFormatter(logging.Formatter("%(message)s"))
  ours = logging.getLogger("adaconv_jax")
  ours.addHandler(handler)
  ours.setLevel(logging.INFO)
  ours.propagate = False
  try:
    if AOT.value is not None:
      return compile_ahead(CONFIG.value, AOT.value)
    connect(DISTRIBUTED.value, COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    step = train_and_evaluate(CONFIG.value, Path(str(WORKDIR.value)))
  except (ValueError, FileNotFoundError, FloatingPointError, CheckpointError) as error:
    sys.exit(f"error: {error}")
  log.info("done: %d steps in %s", step, WORKDIR.value)


def cli() -> None:
  """Entry point of the console command."""
  # `python train.py` finds the configs that others import; the installed command needs this for it.
  sys.path.append(os.getcwd())
  flags.mark_flag_as_required("config")
  flags.register_multi_flags_validator(
    ["workdir", "aot"],
    lambda values: values["workdir"] is not None or values["aot"] is not None,
    "Flag --workdir must have a value other than None.",
  )
  keep_memory()
  try:
    keep_compiled()
  except ValueError as error:
    sys.exit(f"error: {error}")
  app.run(main, flags_parser=_parse_flags)


def _parse_flags(argv: list[str]) -> list[str]:
  try:
    return app.parse_flags_with_usage(argv)
  except (AttributeError, KeyError, TypeError, FileNotFoundError) as error:
    # ConfigDict raises these for unknown keys and wrong types; the text suggests the right name.
    sys.exit(f"error: --config: {error}")


if __name__ == "__main__":
  cli()
