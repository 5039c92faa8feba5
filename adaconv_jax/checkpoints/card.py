"""The model card of a repository on the Hub, written from what a bundle says of itself."""

import re
from collections.abc import Mapping
from typing import Any

from adaconv_jax.checkpoints.hub import EXAMPLE_FILE, MODEL_FILE, SCHEME, VGG_FILE
from adaconv_jax.checkpoints.load import Trained
from adaconv_jax.files import Json
from adaconv_jax.models.build import model_settings

# Names of licenses on the Hub, such as "apache-2.0".
LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")
UNSTATED = "other"
_PAPERS = {
  "adain": ("AdaIN", "Huang & Belongie, ICCV 2017", "1703.06868"),
  "adaconv": ("AdaConv", "Chandran et al., CVPR 2021", None),
  "adaconv_plus": ("AdaConv with skips", "after Chandran et al., CVPR 2021", None),
}
# What a Markdown table or text would take for its own.
_MARKS = str.maketrans({c: f"\\{c}" for c in "\\`*_[]<>|#"})


def model_card(
  repo: str,
  trained: Trained,
  files: Mapping[str, str],
  *,
  license: str = UNSTATED,  # noqa: A002 (the name in the card's metadata)
  example: str = "",
  text: str = "",
) -> str:
  """Writes the card.

  Args:
    repo: "user/name".
    trained: the model, with what is known of its training.
    files: the sha256 of the files in the repository, by name.
    license: of the model, by the Hub's name for it.
    example: what is on the example picture, for those who cannot see it; empty for no picture.
    text: further Markdown, such as what the model was trained for and where it fails.

  Returns:
    Markdown with the metadata that the Hub reads.
  """
  transform = trained.model.transform
  name, paper, arxiv = _PAPERS[transform]
  metadata = [
    "---",
    f"license: {license}",
    "library_name: adaconv_jax",
    "pipeline_tag: image-to-image",
    "tags:",
    *(f"- {tag}" for tag in ("style-transfer", "jax", "flax", transform)),
    *([f"- arxiv:{arxiv}"] if arxiv else ()),
    "---",
  ]
  uri = f"{SCHEME}{repo}"
  needs = f" `{VGG_FILE}` has the VGG weights that `{MODEL_FILE}` needs."
  parts = [
    "\n".join(metadata),
    f"# {_plain(repo.partition('/')[2])}",
    f"Arbitrary style transfer: any photograph in the style of any picture, in one forward pass, "
    f"with {name} ({paper}), in JAX.",
    f"![{_plain(example)}]({EXAMPLE_FILE})" if example else "",
    "## Use",
    "With `adaconv_jax` and its extra `hub` installed, on the command line:",
    f"```sh\nadaconv stylize --model {uri} --content photo.jpg --style painting.jpg "
    "--output out.jpg\n```",
    "or from Python:",
    "```python\nfrom adaconv_jax import load_model\n\n"
    f'model = load_model("{uri}")\n'
    "stylized = model.stylize(content, model.encode_style(style))\n```",
    f"`{uri}@REVISION` is the model of one branch, tag or commit.",
    text.strip(),
    "## The model",
    _table(_model_rows(trained)),
    *_origin(trained.info()),
    "## Files",
    _table((f"`{file}`", f"sha256 `{digest}`") for file, digest in files.items()),
    "The model is verified when it is loaded." + (needs if VGG_FILE in files else ""),
  ]
  return "\n\n".join(part for part in parts if part) + "\n"


def _model_rows(trained: Trained) -> list[tuple[str, str]]:
  import jax

  count = sum(leaf.size for leaf in jax.tree.leaves(trained.params))
  described = model_settings(trained.model)
  rows = [("transform", described["transform"]), ("trained parameters", f"{count:,}")]
  rows += [(name.replace("_", " "), str(value)) for name, value in described["settings"].items()]
  rows.append(("encoder", f"{trained.vgg.arch} up to relu4_1, {trained.vgg.padding} padding"))
  for key, name in (("source", "its weights"), ("scaled", "scaled to"), ("license", "their terms")):
    if key in trained.vgg_info:
      rows.append((name, trained.vgg_info[key]))
  return [(name, _plain(value)) for name, value in rows]


def _origin(info: Json) -> list[str]:
  """Returns the section on where the parameters are from, as far as it is known."""
  imported = info.get("imported")
  if isinstance(imported, Mapping):
    files = imported.get("files")
    rows = [(f"`{name}`", f"sha256 `{x}`") for name, x in _items(files)]
    steps = [f", after {info['steps']:,} steps"] if isinstance(info.get("steps"), int) else []
    source = _plain(str(imported.get("from")))
    return [
      "## Where it is from",
      f"Converted by `adaconv import` from a model of {source}{''.join(steps)}, which it paints "
      "like:",
      _table(rows),
    ]
  rows = [(label, _number(info[key])) for key, label in _RUN.items() if key in info]
  rows += [(_DATA[key], _number(x)) for key, x in _items(info.get("data")) if key in _DATA]
  for group in ("losses", "heldout_losses"):
    rows += [
      (_plain(name.replace("heldout", "held-out").replace("_", " ")), _number(value))
      for name, value in _items(info.get(group))
      if name != "step"
    ]
  return (
    ["## Training", _table([("started from", _start(info.get("start"))), *rows])] if rows else []
  )


_RUN = {
  "steps": "steps",
  "pairs": "pairs of pictures",
  "batch_size": "pairs in a step",
  "ema_decay": "decay of the average of the parameters",
  "version": "version of adaconv_jax",
}
_DATA = {
  "content_train": "contents",
  "content_crop": "their size in pixels",
  "style_train": "styles",
  "style_crop": "size of these in pixels",
}


def _start(start: Any) -> str:
  known = dict(_items(start))
  if "name" not in known:
    return f"random parameters, seed {_number(known.get('seed'))}"
  steps = dict(_items(known.get("info"))).get("steps")
  after = f", after {steps:,} steps" if isinstance(steps, int) else ""
  return f"the model {_plain(str(known['name']))}{after}"


def _items(value: Any) -> list[tuple[str, Any]]:
  return [(str(k), v) for k, v in value.items()] if isinstance(value, Mapping) else []


def _number(value: Any) -> str:
  if isinstance(value, int) and not isinstance(value, bool):
    return f"{value:,}"
  return f"{value:.4g}" if isinstance(value, float) else _plain(str(value))


def _plain(text: str) -> str:
  """Returns text that Markdown shows as it is, on one line."""
  return " ".join(text.split()).translate(_MARKS)


def _table(rows: Any) -> str:
  lines = [f"| {name} | {value} |" for name, value in rows]
  return "\n".join(["| | |", "|---|---|", *lines]) if lines else ""
