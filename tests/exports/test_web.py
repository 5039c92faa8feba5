"""An ONNX file in a page: onnxruntime-web in Chromium; needs `chromium`, `npm` and a network."""

import json
import re
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
from local_server import serving
from PIL import Image
from small_models import picture, small_stylizer

from adaconv_jax import stages
from adaconv_jax.exports import onnx as onnx_format

ROOT = Path(__file__).parents[2]
PACKAGE = "onnxruntime-web@1.30"
PAGE = """<!doctype html><meta charset="utf-8"><script type="module">
import * as ort from "./ort/ort.wasm.min.mjs";
ort.env.wasm.numThreads = 1;
const send = (body) => fetch("/result", {method: "POST", body: JSON.stringify(body)});
try {
  const session = await ort.InferenceSession.create("model.onnx");
  const given = await (await fetch("inputs.json")).json();
  const results = [];
  for (const inputs of given) {
    const feeds = {};
    for (const [name, {data, dims}] of Object.entries(inputs))
      feeds[name] = new ort.Tensor("float32", Float32Array.from(data), dims);
    const {picture} = await session.run(feeds);
    results.push({data: Array.from(picture.data), dims: picture.dims});
  }
  await send(results);
} catch (error) { await send(String(error)); }
</script>"""


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
  """The folder of onnxruntime-web."""
  pytest.importorskip("onnx")
  if not shutil.which("npm") or not shutil.which("chromium"):
    pytest.skip("needs npm and Chromium")
  folder = tmp_path_factory.mktemp("npm")
  command = ["npm", "install", "--silent", "--ignore-scripts", "--prefix", folder, PACKAGE]
  if subprocess.run(command, capture_output=True, timeout=300).returncode:
    pytest.skip(f"npm cannot install {PACKAGE}")
  return folder / "node_modules" / "onnxruntime-web" / "dist"


def page_folder(runtime, parent):
  folder = parent / "page"
  folder.mkdir()
  (folder / "ort").symlink_to(runtime)
  return folder


def visit(page, folder, profile):
  """Shows a page in Chromium, and returns what it posts to /result."""
  (folder / "index.html").write_text(page)
  received, done = [], threading.Event()

  class Handler(SimpleHTTPRequestHandler):
    def __init__(self, *args):
      super().__init__(*args, directory=str(folder))

    def log_message(self, *args):
      pass

    def do_POST(self):
      received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
      self.send_response(204)
      self.end_headers()
      done.set()

  with serving(Handler) as address:
    browser = subprocess.Popen(
      ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
       f"--user-data-dir={profile}", "--remote-debugging-port=0",
       f"{address}/index.html"],
      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
      assert done.wait(120), "the page sent nothing"
    finally:
      browser.terminate()
      browser.wait(30)
  (result,) = received
  return result


@pytest.mark.slow
@pytest.mark.parametrize("transform", ["adain", "adaconv", "adaconv_plus"])
def test_a_page_in_chromium_draws_the_same_picture(transform, runtime, tmp_path):
  stylizer = small_stylizer(transform)
  folder = page_folder(runtime, tmp_path)
  # Random skips enlarge the rounding of the weights, trained ones do not.
  dtype = "float32" if transform == "adaconv_plus" else "float16"
  (folder / "model.onnx").write_bytes(onnx_format.write(stylizer, "stylize", dtype=dtype))
  cases = [
    {"content": picture(0, 1, *size), "style": picture(1, 1, 40, 50), "alpha": np.float32(alpha)}
    for size, alpha in (((37, 50), 1.0), ((64, 41), 0.5), ((24, 24), 0.0))
  ]
  packed = [
    {k: {"data": np.ravel(x).tolist(), "dims": list(np.shape(x))} for k, x in case.items()}
    for case in cases
  ]
  (folder / "inputs.json").write_text(json.dumps(packed))
  results = visit(PAGE, folder, tmp_path / "profile")
  assert isinstance(results, list), results
  for case, result in zip(cases, results, strict=True):
    got = np.asarray(result["data"], np.float32).reshape(result["dims"])
    code = stages.encode(stylizer, case["style"])
    expected = stages.render(stylizer, case["content"], code, np.asarray(case["alpha"]))
    assert got.shape == case["content"].shape
    assert 255 * np.abs(got - np.asarray(expected)).max() < 2


# Appended to the page of the documentation.
REPORT = """<script type="module">
while (document.title != "done") await new Promise((next) => setTimeout(next, 50));
const {data, width, height} = pen.getImageData(0, 0, canvas.width, canvas.height);
await fetch("/result", {method: "POST", body: JSON.stringify({data: [...data], width, height})});
</script>"""


@pytest.mark.slow
def test_the_page_of_the_documentation_draws_the_picture(runtime, tmp_path):
  stylizer, folder = small_stylizer("adain"), page_folder(runtime, tmp_path)
  text = (ROOT / "docs" / "exports.md").read_text()
  (page,) = re.findall(r"```html\n(.*?)```", text, re.DOTALL)
  cdn = f"https://cdn.jsdelivr.net/npm/{PACKAGE}/dist/"
  assert cdn in page
  (folder / "adain.onnx").write_bytes(onnx_format.write(stylizer, "stylize", dtype="float16"))
  drawn = []
  for index, (name, size) in enumerate((("cat.jpg", (37, 50)), ("night.jpg", (40, 30)))):
    pixels = np.round(255 * picture(index, *size)).astype(np.uint8)
    # A browser looks at the content, not at the suffix; a JPEG would be decoded in two ways.
    Image.fromarray(pixels).save(folder / name, "PNG")
    drawn.append(pixels[None].astype(np.float32) / 255)
  shared = page.replace(cdn, "./ort/").replace("const canvas", "globalThis.canvas", 1)
  shared = shared.replace(
    'getElementById("canvas"), pen =', 'getElementById("canvas"); const pen ='
  )
  shared = shared.replace("document.title =", "globalThis.pen = pen; document.title =")
  result = visit(shared + REPORT, folder, tmp_path / "profile")
  got = np.asarray(result["data"], np.float32).reshape(result["height"], result["width"], 4)
  code = stages.encode(stylizer, drawn[1])
  expected = np.asarray(stages.render(stylizer, drawn[0], code, None))[0]
  assert (got[..., 3] == 255).all()
  assert np.abs(got[..., :3] - 255 * expected).max() < 2
