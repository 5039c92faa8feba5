"""Models on the Hub, against a stand-in on this machine; no request leaves it.

Without huggingface_hub these tests are skipped: `pip install 'adaconv_jax[hub]'`.
"""

import base64
import hashlib
import importlib
import io
import json
import os
import re
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from local_server import serving
from PIL import Image
from small_models import make_workdir, picture, small_stylizer

from adaconv_jax import load_model, save_bundle, stylize
from adaconv_jax.checkpoints import hub
from adaconv_jax.checkpoints.bundle import vgg_beside
from adaconv_jax.cli import hub as cli
from adaconv_jax.cli.export import main as export_main
from adaconv_jax.cli.stylize import main as stylize_main
from adaconv_jax.vgg.file import read_file, write_file
from adaconv_jax.vgg.weights import PACKAGED

import_main = importlib.import_module("adaconv_jax.cli.import").main
library: Any = pytest.importorskip("huggingface_hub")
constants: Any = importlib.import_module("huggingface_hub.constants")
hf_api: Any = importlib.import_module("huggingface_hub.hf_api")

# Of the library's own calls of the client that it makes requests with.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

TOKEN = "hf_of_the_user"


class Repo:
  """A repository: commits, newest last, and branches."""

  def __init__(self, private: bool = False):
    self.private = private
    self.commits: dict[str, dict[str, bytes]] = {}
    self.branches: dict[str, str] = {}

  def commit(self, branch: str, files: dict[str, bytes]) -> str:
    before = self.commits.get(self.branches.get(branch, ""), {})
    oid = hashlib.sha1(f"{len(self.commits)}".encode()).hexdigest()
    self.commits[oid] = before | files
    self.branches[branch] = oid
    return oid


class Hub:
  """What a stand-in holds, and what it was asked."""

  def __init__(self):
    self.repos: dict[str, Repo] = {}
    self.uploaded: dict[str, bytes] = {}
    self.asked: list[str] = []
    self.url = ""
    self.status = 0  # of all answers, if not 0
    self.takes_files = True


def handler(state: Hub) -> type[BaseHTTPRequestHandler]:
  class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
      del args

    def answer(self, content: Any = None, *, status: int = 200, data: bytes = b"", **headers: str):
      if content is not None:
        data = json.dumps(content).encode()
        headers["Content_Type"] = "application/json"
      self.send_response(status)
      for name, value in headers.items():
        self.send_header(name.replace("_", "-"), value)
      self.send_header("Content-Length", str(len(data)))
      self.end_headers()
      if self.command != "HEAD":
        self.wfile.write(data)

    def fault(self, status: int, code: str, message: str = "") -> None:
      self.answer({"error": message}, status=status, X_Error_Code=code, X_Error_Message=message)

    def run(self) -> None:
      state.asked.append(f"{self.command} {self.path}")
      body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
      token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
      if state.status:
        return self.fault(state.status, "", "busy")
      path = self.path.partition("?")[0]
      if path.startswith("/lfs/") and not state.takes_files:
        return self.fault(403, "", "the storage is full")
      if path.startswith("/lfs/"):
        state.uploaded[path.removeprefix("/lfs/")] = body
        return self.answer({})
      if self.command == "POST" and path != "/api/validate-yaml" and token != TOKEN:
        return self.fault(401, "", "Invalid username or password.")
      if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
        return self.resolve(*match.groups(), allowed=token == TOKEN)
      if self.command == "POST":
        return self.post(path, body)
      self.fault(404, "EntryNotFound")

    def resolve(self, name: str, revision: str, file: str, *, allowed: bool) -> None:
      repo = state.repos.get(name)
      if repo is None or repo.private and not allowed:
        return self.fault(404 if allowed else 401, "RepoNotFound", "Repository not found")
      oid = repo.branches.get(revision, revision)
      if oid not in repo.commits:
        return self.fault(404, "RevisionNotFound", "Invalid rev id")
      if file not in repo.commits[oid]:
        return self.answer(status=404, X_Error_Code="EntryNotFound", X_Repo_Commit=oid)
      data = repo.commits[oid][file]
      etag = f'"{hashlib.sha256(data).hexdigest()}"'
      self.answer(data=data, ETag=etag, X_Repo_Commit=oid)

    def post(self, path: str, body: bytes) -> None:
      if path == "/api/validate-yaml":
        return self.answer({"errors": [], "warnings": []})
      if path.endswith("/objects/batch"):
        objects = [
          {**x, "actions": {"upload": {"href": f"{state.url}/lfs/{x['oid']}"}}}
          for x in json.loads(body)["objects"]
        ]
        return self.answer({"transfer": "basic", "objects": objects})
      if path == "/api/repos/create":
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if name in state.repos:
          url = {"url": f"{state.url}/{name}", "error": "You already created this model repo"}
          return self.answer(url, status=409)
        if asked["organization"] != "user":
          return self.fault(403, "", "You don't have the rights to create a model there")
        state.repos[name] = Repo(asked.get("visibility") == "private")
        return self.answer({"url": f"{state.url}/{name}", "name": name})
      match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(branch|preupload|commit)/(.+)", path)
      assert match, path
      name, action, branch = match.groups()
      if action == "branch":
        repo = state.repos[name]
        repo.branches.setdefault(branch, repo.branches.get("main", ""))
        return self.answer({})
      if action == "preupload":
        files = [
          {
            "path": file["path"],
            "uploadMode": "lfs" if file["path"].endswith((".safetensors", ".jpg")) else "regular",
            "shouldIgnore": False,
          }
          for file in json.loads(body)["files"]
        ]
        return self.answer({"files": files})
      oid = state.repos[name].commit(branch, committed(body))
      url = f"{state.url}/{name}/commit/{oid}"
      self.answer({"commitOid": oid, "commitUrl": url, "success": True})

    do_GET = do_HEAD = do_POST = do_PUT = run

  def committed(body: bytes) -> dict[str, bytes]:
    files = {}
    for line in body.splitlines():
      entry = json.loads(line)
      value = entry["value"]
      if entry["key"] == "file":
        files[value["path"]] = base64.b64decode(value["content"])
      elif entry["key"] == "lfsFile":
        files[value["path"]] = state.uploaded[value["oid"]]
    return files

  return Handler


@pytest.fixture
def standin(tmp_path, monkeypatch, no_proxy):
  """The stand-in, to which the library's requests go; its cache is a folder of the test's own."""
  state = Hub()
  with serving(handler(state)) as url:
    state.url = url
    cache = str(tmp_path / "cache" / "hub")
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    # The library reads its environment when it is imported.
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", URL_TEMPLATE.format(url))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "cache" / "token"))
    monkeypatch.setattr(hf_api.api, "endpoint", url)
    yield state


URL_TEMPLATE = "{}/{{repo_id}}/resolve/{{revision}}/{{filename}}"


def unplug(monkeypatch: pytest.MonkeyPatch) -> None:
  """Sends requests where nobody answers, without the library's pauses before it tries again."""
  monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
  gone = URL_TEMPLATE.format("http://127.0.0.1:9")
  monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", gone)
  monkeypatch.setattr(time, "sleep", lambda seconds: None)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
  """A small bundle, and one with VGG weights of its own beside it."""
  folder = tmp_path_factory.mktemp("bundles")
  small = small_stylizer("adain")
  info = {"steps": 12, "pairs": 48, "batch_size": 4, "start": {"seed": 3}}
  save_bundle(small, folder / "small.safetensors", dtype="float16", info=info)
  tensors, metadata = read_file(PACKAGED / "vgg16.safetensors")
  metadata = {k: v for k, v in metadata.items() if k not in ("path", "file_sha256")}
  tensors["conv1_1.bias"] = tensors["conv1_1.bias"] + np.float32(0.5)
  write_file(folder / "own.vgg.safetensors", tensors, metadata)
  own = load_own(small, folder / "own.vgg.safetensors")
  save_bundle(own, folder / "own.safetensors", info={"imported": {"from": "A/b", "files": {}}})
  return folder


def load_own(stylizer: Any, vgg: Path) -> Any:
  from adaconv_jax.vgg import weights

  return stylizer.replace(vgg_params=weights.load("vgg16", vgg)[0])


@pytest.fixture
def fast_example(monkeypatch):
  """A smaller example picture, which compiles in a moment."""
  monkeypatch.setattr(cli, "EXAMPLE_SIZE", 32)


def give(state: Hub, name: str, *files: Path, private: bool = False) -> str:
  """Puts files into a repository as `model.safetensors`, and VGG weights beside it."""
  repo = state.repos.setdefault(name, Repo(private))
  names = [hub.MODEL_FILE, hub.VGG_FILE]
  return repo.commit("main", {n: f.read_bytes() for n, f in zip(names, files, strict=False)})


def same(first: Any, second: Any) -> bool:
  content, style = picture(1, 24, 32), picture(2, 32, 24)
  return bool((stylize(content, style, model=first) == stylize(content, style, model=second)).all())


# pull


def test_a_model_of_the_hub_loads_by_its_address_and_paints_the_same(standin, bundles):
  give(standin, "user/small", bundles / "small.safetensors")
  model = load_model("hf://user/small")
  assert same(model, bundles / "small.safetensors")
  assert same("hf://user/small", model)


def test_its_own_vgg_weights_come_with_it(standin, bundles):
  give(standin, "user/own", bundles / "own.safetensors", bundles / "own.vgg.safetensors")
  assert same(load_model("hf://user/own"), bundles / "own.safetensors")


def test_a_revision_pins_the_model(standin, bundles):
  first = give(standin, "user/m", bundles / "small.safetensors")
  give(standin, "user/m", bundles / "own.safetensors", bundles / "own.vgg.safetensors")
  newest, pinned = hub.fetch(hub.HubModel("user/m")), hub.fetch(hub.HubModel("user/m", first))
  assert newest.read_bytes() == (bundles / "own.safetensors").read_bytes()
  assert pinned.read_bytes() == (bundles / "small.safetensors").read_bytes()
  assert not vgg_beside(pinned).exists() and vgg_beside(newest).exists()
  assert same(load_model(f"hf://user/m@{first}"), bundles / "small.safetensors")


def test_what_was_pulled_once_loads_without_a_network(standin, bundles, monkeypatch):
  give(standin, "user/small", bundles / "small.safetensors")
  give(standin, "user/own", bundles / "own.safetensors", bundles / "own.vgg.safetensors")
  for name in ("small", "own"):
    hub.fetch(hub.HubModel(f"user/{name}"))
  standin.asked.clear()
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
  for name in ("small", "own"):
    path = hub.fetch(hub.HubModel(f"user/{name}"))
    assert path.read_bytes() == (bundles / f"{name}.safetensors").read_bytes()
    assert vgg_beside(path).exists() == (name == "own")
  assert not standin.asked
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
  unplug(monkeypatch)
  for name in ("small", "own"):
    assert vgg_beside(hub.fetch(hub.HubModel(f"user/{name}"))).exists() == (name == "own")


def test_pull_copies_the_model_and_its_vgg_weights_to_a_file(standin, bundles, tmp_path, capsys):
  give(standin, "user/own", bundles / "own.safetensors", bundles / "own.vgg.safetensors")
  output = tmp_path / "new" / "mine.safetensors"
  assert cli.main(["pull", "user/own", "--output", str(output)]) == 0
  assert capsys.readouterr().out == f"{output}\n"
  assert output.read_bytes() == (bundles / "own.safetensors").read_bytes()
  load_model(output)
  assert cli.main(["pull", "hf://user/own@main"]) == 0
  assert capsys.readouterr().out.rstrip().endswith(hub.MODEL_FILE)


def test_a_copy_of_a_model_with_its_own_vgg_weights_has_them_too(bundles, tmp_path):
  copied = tmp_path / "copy.safetensors"
  assert not export_main([str(bundles / "own.safetensors"), str(copied)])
  assert vgg_beside(copied).read_bytes() == (bundles / "own.vgg.safetensors").read_bytes()
  load_model(copied)


@pytest.mark.parametrize("command", ["pull", "export"])
def test_no_model_is_written_where_the_vgg_weights_of_another_lie(
  command, standin, bundles, tmp_path
):
  give(standin, "user/small", bundles / "small.safetensors")
  output = tmp_path / "mine.safetensors"
  vgg_beside(output).write_bytes((bundles / "own.vgg.safetensors").read_bytes())
  with pytest.raises(SystemExit) as ended:
    if command == "pull":
      cli.main(["pull", "user/small", "--output", str(output)])
    else:
      export_main([str(bundles / "small.safetensors"), str(output)])
  message = str(ended.value.code)
  assert re.search(r"other vgg16 weights .* in .*mine\.vgg\.safetensors", message)
  assert "move that file, or choose another name than mine.safetensors" in message
  assert "\n" not in message and not output.exists()


def test_commands_take_a_model_of_the_hub(standin, bundles, tmp_path):
  give(standin, "user/small", bundles / "small.safetensors")
  for name, seed in (("content", 1), ("style", 2)):
    pixels = (255 * picture(seed, 32, 32)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"{name}.png")
  arguments = ["--content", str(tmp_path / "content.png"), "--style", str(tmp_path / "style.png")]
  output = tmp_path / "out.png"
  assert not stylize_main([*arguments, "--output", str(output), "--model", "hf://user/small"])
  with Image.open(output) as picture_made:
    assert picture_made.size == (32, 32)
  copied = tmp_path / "copy.safetensors"
  assert not export_main(["hf://user/small", str(copied)])
  assert same(copied, bundles / "small.safetensors")


def test_the_address_of_a_file_is_not_that_of_a_model():
  assert hub.parse("hf://user/name/file.safetensors") is None
  assert hub.parse("gs://user/name") is None and hub.parse("user/name") is None
  assert hub.parse(Path("hf://user/name@v1")) == hub.HubModel("user/name", "v1")


# Errors, one line each


@pytest.mark.parametrize("option", ["--revision", "--license", "--message"])
def test_an_empty_text_is_refused_and_not_called_a_path(option, capsys):
  with pytest.raises(SystemExit, match="2"):
    cli.main(["push", "adain", "user/name", option, " "])
  line = capsys.readouterr().err.splitlines()[-1]
  assert f"argument {option}: expected a" in line and "path" not in line


def test_a_model_is_not_written_to_the_hub_by_a_path(capsys):
  with pytest.raises(SystemExit, match="2"):
    import_main(["decoder.pth", "--output", "hf://user/name"])
  assert "hf://user/name: expected a local path or a bucket" in capsys.readouterr().err


def line_of(action: Any, *args: Any) -> str:
  with pytest.raises(ValueError) as caught:
    action(*args)
  line = str(caught.value)
  assert "\n" not in line and TOKEN not in line
  return line


def test_an_unknown_repository_is_one_line(standin, monkeypatch):
  assert "hf://user/none: there is no such repository" in line_of(load_model, "hf://user/none")
  monkeypatch.delenv("HF_TOKEN")
  assert "no such repository, or it is private" in line_of(load_model, "hf://user/none")


def test_a_private_one_without_a_token_is_one_line_with_the_way_in(standin, bundles, monkeypatch):
  give(standin, "user/own", bundles / "small.safetensors", private=True)
  load_model("hf://user/own")
  give(standin, "user/other", bundles / "small.safetensors", private=True)
  monkeypatch.delenv("HF_TOKEN")
  line = line_of(load_model, "hf://user/other")
  assert "if it is private" in line and "HF_TOKEN" in line and "hf auth login" in line


def test_an_unknown_revision_is_one_line(standin, bundles):
  give(standin, "user/small", bundles / "small.safetensors")
  assert "has no revision 'v9'" in line_of(load_model, "hf://user/small@v9")


def test_a_repository_without_a_model_is_one_line(standin):
  standin.repos["user/other"] = Repo()
  standin.repos["user/other"].commit("main", {"pytorch_model.bin": b"x"})
  assert "has no model.safetensors" in line_of(load_model, "hf://user/other")


def test_another_model_by_that_name_is_one_line(standin, bundles):
  give(standin, "user/vgg", bundles / "own.vgg.safetensors")
  assert "VGG weights" in line_of(load_model, "hf://user/vgg")


def test_no_network_is_one_line(standin, monkeypatch):
  unplug(monkeypatch)
  line = line_of(load_model, "hf://user/small")
  assert "the Hub cannot be reached" in line and "not in the cache" in line


def test_offline_without_the_model_in_the_cache_is_one_line(standin, monkeypatch):
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
  line = line_of(load_model, "hf://user/small")
  assert "not in the cache, and HF_HUB_OFFLINE is set" in line
  with pytest.raises(ValueError, match="user/small: HF_HUB_OFFLINE is set, but an upload needs"):
    hub.upload("user/small", {"a": b"b"})
  assert not standin.asked


def test_a_hub_that_fails_is_one_line(standin, bundles, monkeypatch):
  give(standin, "user/small", bundles / "small.safetensors")
  standin.status = 418
  assert "418" in line_of(load_model, "hf://user/small")


@pytest.mark.parametrize("status", [200, 409])
def test_an_answer_that_is_not_one_of_a_hub_is_one_line(status, standin):
  standin.status = status
  line = line_of(hub.upload, "user/small", {"a": b"b"})
  assert "user/small: the answer is not one of a Hub" in line


def test_a_missing_extra_is_one_line(monkeypatch):
  monkeypatch.setitem(sys.modules, "huggingface_hub", None)
  line = line_of(load_model, "hf://user/small")
  assert "pip install 'adaconv_jax[hub]'" in line


@pytest.mark.parametrize("arguments", [["push", "gone", "user/small"], ["pull", "user/small"]])
def test_a_missing_extra_is_known_before_anything_is_done(arguments, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, "huggingface_hub", None)
  with pytest.raises(SystemExit) as ended:
    cli.main(arguments)
  message = capsys.readouterr().err
  assert ended.value.code == 2 and message.count("\n") == 1
  assert "pip install 'adaconv_jax[hub]'" in message


@pytest.mark.parametrize(
  "name",
  [
    "hf://user/na me", "hf://../name", "hf://user/name@", "hf://u/", "hf://u/a--b", "hf://a../b",
    "hf://u/a.git",
  ],
)  # fmt: skip
def test_a_name_that_none_has_is_one_line(name):
  assert "expected" in line_of(load_model, name)


def test_pull_without_a_revision_after_the_at_is_refused(standin):
  for revision in (None, "v2"):
    with pytest.raises(ValueError, match="expected a branch, a tag or a commit after the @"):
      cli.pull("user/small@", revision=revision)
  assert not standin.asked


# push


def test_push_uploads_model_card_and_example_and_the_model_loads(
  standin, bundles, tmp_path, capsys, fast_example
):
  (tmp_path / "card.md").write_text("## Limits\n\nIt knows no hands.\n")
  source = str(bundles / "own.safetensors")
  arguments = ["push", source, "user/own", "--private", "--license", "apache-2.0"]
  assert cli.main([*arguments, "--card", str(tmp_path / "card.md")]) == 0
  repo = standin.repos["user/own"]
  (oid,) = repo.commits
  assert capsys.readouterr().out == f"hf://user/own@{oid}\n"
  assert repo.private
  files = repo.commits[oid]
  assert set(files) == {"README.md", "example.jpg", hub.MODEL_FILE, hub.VGG_FILE}
  assert files[hub.MODEL_FILE] == (bundles / "own.safetensors").read_bytes()
  assert Image.open(io.BytesIO(files["example.jpg"])).size == (3 * 32 + 2 * 4, 32)
  card = files["README.md"].decode()
  assert "It knows no hands." in card and "license: apache-2.0" in card
  assert hashlib.sha256(files[hub.MODEL_FILE]).hexdigest() in card
  assert same(load_model("hf://user/own"), bundles / "own.safetensors")


def test_push_of_a_workdir_makes_a_bundle_of_its_newest_checkpoint(
  standin, tmp_path, fast_example, capsys
):
  small = small_stylizer("adain", seed=4)
  workdir = make_workdir(tmp_path / "run", [small_stylizer("adain"), small])
  assert cli.main(["push", str(workdir), "user/run", "--revision", "dev"]) == 0
  (oid,) = standin.repos["user/run"].commits
  assert standin.repos["user/run"].branches["dev"] == oid
  files = standin.repos["user/run"].commits[oid]
  assert hub.VGG_FILE not in files  # the package has them
  loaded = load_model(f"hf://user/run@{oid}")
  kernel = loaded.params["decoder"]["conv4_1"]["kernel"]
  np.testing.assert_allclose(kernel, small.params["decoder"]["conv4_1"]["kernel"], atol=1e-3)
  assert "| steps | 200 |" in files["README.md"].decode()


def test_a_second_push_is_a_second_commit(standin, bundles, fast_example):
  for _ in range(2):
    cli.push(bundles / "small.safetensors", "user/small")
  assert len(standin.repos["user/small"].commits) == 2


def test_the_metadata_of_a_card_are_what_the_hub_reads(standin, bundles, fast_example):
  cli.push(bundles / "small.safetensors", "user/small", license="cc-by-4.0")
  repo = standin.repos["user/small"]
  card = library.ModelCard(repo.commits[repo.branches["main"]]["README.md"].decode())
  metadata = card.data.to_dict()
  assert metadata["license"] == "cc-by-4.0"
  assert metadata["library_name"] == "adaconv_jax"
  assert metadata["pipeline_tag"] == "image-to-image"
  assert {"style-transfer", "jax", "adain"} <= set(metadata["tags"])
  assert "hf://user/small" in card.text and "![" in card.text
  assert "| steps | 12 |" in card.text and "random parameters, seed 3" in card.text


def test_push_without_a_token_or_the_right_is_one_line(standin, bundles, monkeypatch, fast_example):
  model = bundles / "small.safetensors"
  assert "hf://else/small: the token may not write there" in line_of(cli.push, model, "else/small")
  monkeypatch.delenv("HF_TOKEN")
  line = line_of(cli.push, model, "user/small")
  assert "HF_TOKEN" in line
  assert not standin.repos


def test_an_upload_that_fails_is_one_line_and_commits_nothing(standin, bundles, fast_example):
  standin.takes_files = False
  assert "hf://user/small: " in line_of(cli.push, bundles / "small.safetensors", "user/small")
  assert not standin.repos["user/small"].commits


def test_wrong_arguments_of_push_are_refused_before_anything_is_asked(standin, bundles):
  model = bundles / "small.safetensors"
  assert "expected USER/NAME" in line_of(cli.push, model, "name")
  assert "license: expected a name" in line_of(lambda: cli.push(model, "u/n", license="a: b"))
  with pytest.raises(SystemExit, match="^error: model: 'nowhere' is neither"):
    cli.main(["push", "nowhere", "user/small"])
  with pytest.raises(SystemExit, match="^error: .*no.md"):
    cli.main(["push", str(model), "user/small", "--card", "no.md"])
  assert not standin.asked


def test_the_command_of_a_new_process_uses_the_environment(standin, bundles):
  give(standin, "user/small", bundles / "small.safetensors")
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "HF_ENDPOINT": standin.url}
  command = [sys.executable, "-m", "adaconv_jax", "hub", "pull"]
  for offline, name, code in (("", "user/small", 0), ("1", "user/small", 0), ("1", "user/x", 1)):
    done = subprocess.run(
      [*command, name],
      capture_output=True,
      text=True,
      env=environment | {"HF_HUB_OFFLINE": offline},
      timeout=100,
    )
    assert done.returncode == code, done.stderr
    if code:
      assert len(done.stderr.splitlines()) == 1
