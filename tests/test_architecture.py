"""Rooms of the package: imports go one way, and inference is free of training."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "adaconv_jax"

# A room may import those before it. A room is a folder, or a module beside the folders.
ORDER = [
  "extras",
  "bars",
  "host_cpu",
  "signals",
  "bucket",
  "files",
  "tensor_files",
  "lock",
  "results",
  "compilation",
  "programs",
  "kinds",
  "configs",
  "image_formats",
  "images",
  "ops",
  "vgg",
  "models",
  "checkpoints",
  "data",
  "training",
  "rooms",
  "stages",
  "inference",
  "video",
  "web",
  "evaluation",
  "exports",
  "cli",
  "__main__",
]
# Rooms that inference works without.
NOT_FOR_INFERENCE = {"configs", "data", "training", "web", "evaluation", "exports", "cli"}


def modules() -> Iterator[tuple[str, str, ast.Module]]:
  """Room, name and syntax tree of each module; the package's `__init__` has the public names."""
  for path in sorted(PACKAGE.rglob("*.py")):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts != ("__init__",):
      yield parts[0], ".".join(parts), ast.parse(path.read_text())


def imported(tree: ast.Module) -> Iterator[str]:
  """What a module imports of the package, as "ops.adain"; inside of functions as well."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, "relative imports hide the room"
      names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
      continue
    for name in names:
      if name.startswith("adaconv_jax.") and name != "adaconv_jax.__version__":
        yield name.removeprefix("adaconv_jax.")


def test_every_room_has_its_place_in_the_order():
  assert {room for room, _, _ in modules()} == set(ORDER)


def test_imports_between_rooms_go_one_way():
  arrows = {
    (room, name, target)
    for room, name, tree in modules()
    for target in imported(tree)
    if target.partition(".")[0] != room
  }
  assert arrows
  for room, name, target in sorted(arrows):
    other = target.partition(".")[0]
    assert other in ORDER, f"{name} imports the unknown {target}"
    assert ORDER.index(other) < ORDER.index(room), f"{name} imports {target}, which comes after it"


def test_modules_of_a_room_do_not_import_each_other_in_a_circle():
  names = {name for _, name, _ in modules()}
  needs = {
    name: {t for t in map(module_of(names), imported(tree)) if t} for _, name, tree in modules()
  }
  # Packages stand for what their `__init__` imports, which may import the package again.
  for name in needs:
    needs[name] -= {name, f"{name.rpartition('.')[0]}.__init__"}
  while needs:
    free = {name for name, wanted in needs.items() if not wanted & needs.keys()}
    assert free, f"a circle among {sorted(needs)}"
    needs = {name: wanted for name, wanted in needs.items() if name not in free}


def module_of(names: set[str]):
  """Finds the module that "ops.adain.channel_stats" or "ops.adain" is or is in."""

  def find(target: str) -> str | None:
    owner = target.rpartition(".")[0]
    candidates = (target, owner, f"{target}.__init__", f"{owner}.__init__")
    return next((name for name in candidates if name in names), None)

  return find


def test_inference_and_what_it_imports_are_free_of_training():
  trees = {name: tree for _, name, tree in modules()}
  find, seen, queue = module_of(set(trees)), set(), ["inference"]
  while queue:
    name = queue.pop()
    if name not in seen:
      seen.add(name)
      queue += [t for t in map(find, imported(trees[name])) if t]
  assert len(seen) > 10
  assert not {name for name in seen if name.partition(".")[0] in NOT_FOR_INFERENCE}


STYLIZE = """
import sys
from adaconv_jax import stylize
import numpy as np

picture = np.random.default_rng(0).random((16, 16, 3), np.float32)
assert stylize(picture, picture, model="adain").shape == picture.shape
names = ("optax", "orbax", "grain", "tensorflow_datasets", "tensorboardX")
print([name for name in names if name in sys.modules])
print(sorted(name for name in sys.modules if name.startswith("adaconv_jax.training")))
"""


@pytest.mark.slow
def test_a_shipped_model_stylizes_without_what_training_imports():
  done = subprocess.run(
    [sys.executable, "-c", STYLIZE], capture_output=True, text=True, cwd=ROOT, timeout=300
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.split("\n")[:2] == ["[]", "[]"]
