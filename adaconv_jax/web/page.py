"""The page itself: its controls, and what they call. Needs Gradio.

Import it after `quiet_environment`: Gradio reads its settings when it is imported.
"""

# Without Gradio, the type checker knows one base of the components only.
# pyright: reportCallIssue=false

import html
import tempfile
import traceback
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]
from gradio import component_meta, themes  # pyright: ignore[reportMissingImports]
from gradio.components.image_editor import AcceptBlobs  # pyright: ignore[reportMissingImports]
from PIL import Image
from starlette.middleware import Middleware  # pyright: ignore[reportMissingImports]

from adaconv_jax import images
from adaconv_jax.ops.color import COLORS
from adaconv_jax.web import work
from adaconv_jax.web.head import NoCards
from adaconv_jax.web.limits import Limits
from adaconv_jax.web.work import Made, Refused, Studio, Wish

# Requests that may wait; one is rendered at a time.
QUEUE = 12
# Bytes of a request: a file with what is around it.
MOST_BYTES = work.MAX_UPLOAD_BYTES + 2**20
# Paintings of brushes that are kept, and the largest of one in bytes.
BRUSHES, BRUSH_BYTES = 64, 8 * 2**20
FIRST_CONTENT, FIRST_STYLE = "cat", "night"
NONE = "none"
EVERYWHERE, PAINTED, UNPAINTED = "everywhere", "where I paint", "where I do not paint"
SIZE_NAMES = {"512": "512", "1024": "1024", "2048": "2048", "full": "full size"}
COLOR_NAMES = dict(
  zip(COLORS, ("the style's", "the picture's", "the style's, matched"), strict=True)
)
THUMBNAIL = 160

# For every class of a component, Gradio would write a stub file beside this one.
_write_stub = component_meta.create_or_modify_pyi
component_meta.create_or_modify_pyi = lambda *arguments: None


class _FromHere:
  """A component whose files were uploaded: no request can make the server fetch one."""

  async def async_move_resource_to_block_cache(self, url_or_file_path: Any) -> str | None:
    """Refuses addresses; see the base class."""
    if "://" in str(url_or_file_path or ""):
      raise gr.Error("Upload a file; addresses are not fetched.", print_exception=False)
    return await super().async_move_resource_to_block_cache(url_or_file_path)  # pyright: ignore

  def _uploaded(self, path: str) -> str:
    """Returns the path of an upload.

    Gradio checks only what a request declares to be a file.

    Raises:
      gr.Error: it is not in the folder of uploads.
    """
    folder = Path(self.GRADIO_CACHE).resolve()  # pyright: ignore
    if not Path(path).resolve().is_relative_to(folder):
      raise gr.Error("The file was not uploaded by a user.", print_exception=False)
    return path


class Upload(_FromHere, gr.Image):
  """An upload that stays a file: the package decodes it, with its own limits and messages."""

  def preprocess(self, payload: Any) -> str | None:
    """Returns the path."""
    if payload is None or not payload.path or (payload.url or "").startswith("data:"):
      return None
    return self._uploaded(payload.path)

  def get_block_name(self) -> str:
    """Returns the name of the part of the page that shows it."""
    return "image"


class Brush(_FromHere, gr.ImageEditor):
  """The editor of which only what was painted is used, as it was sent."""

  def preprocess(self, payload: Any) -> bytes | None:
    """Returns the file of the first layer."""
    if payload is not None and payload.id is not None:
      payload = self.blob_storage.get(payload.id)
    layer = payload.layers[0] if payload is not None and payload.layers else None
    if layer is None or isinstance(layer, bytes):
      return layer
    return images.read_file(self._uploaded(layer.path), name="The brush")

  def accept_blobs(self, data: AcceptBlobs) -> Any:
    """Keeps what was painted, if it is small; the page also sends other parts."""
    if (data.data.get("type"), str(data.data.get("index"))) != ("layer", "0"):
      return None
    for _, file in data.files:
      if len(file) > BRUSH_BYTES:
        raise gr.Error("The painting is too large.", print_exception=False)
    return super().accept_blobs(data)

  accept_blobs._is_server_fn = True  # pyright: ignore

  def get_block_name(self) -> str:
    """Returns the name of the part of the page that shows it."""
    return "imageeditor"


component_meta.create_or_modify_pyi = _write_stub


class _Bounded(OrderedDict):
  """Forgets the oldest entries."""

  def __setitem__(self, key: Any, value: Any) -> None:
    super().__setitem__(key, value)
    while len(self) > BRUSHES:
      self.popitem(last=False)


def build(
  studio: Studio,
  folder: Path,
  *,
  model: str,
  detail: float,
  palette: float,
  evenness: float,
  refine: int,
  shared: bool,
) -> gr.Blocks:
  """Builds the page.

  Args:
    studio: makes the pictures.
    folder: where results go; Gradio's folder of temporary files.
    model: the one that is chosen at first.
    detail: the same for detail.
    palette: of all pictures with the style's colors.
    evenness: of all pictures.
    refine: the steps that are chosen at first.
    shared: whether the page is reached through Gradio's servers, which it then says.
  """
  where = (
    "This page is reached through Gradio's servers, which see the pictures."
    if shared
    else "Pictures stay on the computer that runs this page, and are deleted after an hour."
  )
  with gr.Blocks(title="adaconv", analytics_enabled=False) as page:
    gr.HTML(
      f"<h1>adaconv</h1><p>A picture in the style of another. {where}</p>", elem_classes="head"
    )
    parts = _Parts(studio, folder, palette, evenness)
    with gr.Row(elem_id="columns"):
      with gr.Column(scale=5, min_width=320):
        parts.add_pictures()
        parts.add_sliders(detail)
        parts.add_second_style()
        parts.add_settings(model, refine)
        parts.add_brush()
      with gr.Column(scale=6, min_width=320, elem_id="right"):
        parts.add_result()
    parts.connect()
  page.queue(max_size=QUEUE, api_open=False)
  return page


class _Parts:
  """The parts of the page; the methods that add some are called in their order on it.

  Args:
    studio: makes the pictures.
    folder: where results go.
    palette: of all pictures.
    evenness: the same.
  """

  def __init__(self, studio: Studio, folder: Path, palette: float, evenness: float):
    self._studio, self._folder = studio, folder
    self._palette, self._evenness = palette, evenness
    self._contents, self._styles = work.examples("content"), work.examples("style")

  def add_pictures(self) -> None:
    """The content and the style."""
    self.upload = Upload(
      label="Your picture",
      sources=["upload", "webcam", "clipboard"],
      type="filepath",
      height=220,
      buttons=[],
      elem_id="upload",
    )
    self.content = gr.Radio(
      list(self._contents),
      value=FIRST_CONTENT,
      label="Or an example",
      elem_id="contents",
      elem_classes="tiles",
    )
    self.style = gr.Radio(
      list(self._styles), value=FIRST_STYLE, label="Style", elem_id="styles", elem_classes="tiles"
    )
    with gr.Accordion("A style of your own", open=False):
      self.own_style = Upload(
        label="Your style",
        sources=["upload", "clipboard"],
        type="filepath",
        height=160,
        buttons=[],
        elem_id="own-style",
      )

  def add_sliders(self, detail: float) -> None:
    """What is changed most often."""
    with gr.Row(elem_id="sliders"):
      self.alpha = gr.Slider(0, 1, 1, step=0.05, label="Strength", info="0 is the picture itself.")
      self.detail = gr.Slider(
        0, 1, detail, step=0.05, label="Detail", info="Keeps faces and lettering."
      )

  def add_second_style(self) -> None:
    """A mix of two styles."""
    with gr.Accordion("Mix in a second style", open=False):
      self.second = gr.Radio(
        [NONE, *self._styles], value=NONE, label="Second style", elem_id="seconds",
        elem_classes="tiles",
      )  # fmt: skip
      self.own_second = Upload(
        label="Or your own",
        sources=["upload", "clipboard"],
        type="filepath",
        height=140,
        buttons=[],
        elem_id="own-second",
      )
      self.share = gr.Slider(0, 1, 0.5, step=0.05, label="Share of the second style")

  def add_settings(self, model: str, refine: int) -> None:
    """What is changed more rarely."""
    with gr.Accordion("Colors, strokes, size and model", open=False):
      self.color = gr.Radio(
        [(text, name) for name, text in COLOR_NAMES.items()], value=COLORS[0], label="Colors"
      )
      self.strokes = gr.Slider(
        0.25, 4, 1, step=0.25, label="Strokes",
        info="2: twice as coarse. Below 1 they are finer, and take longer.",
      )  # fmt: skip
      self.refine = gr.Slider(
        0, 10, refine, step=1, label="Refinement",
        info="Steps toward the style. More take longer; 0 is one quick pass.",
      )  # fmt: skip
      self.size = gr.Radio(
        [(SIZE_NAMES[name], name) for name in work.SIZES], value="512", label="Size",
        info="Pixels of the shorter side, at most. Strokes stay the same.",
      )  # fmt: skip
      self.model = gr.Radio(list(self._studio.models), value=model, label="Model")

  def add_brush(self) -> None:
    """Where the style applies."""
    with gr.Accordion("Brush: where the style applies", open=False) as self.brush_part:
      self.region = gr.Radio(
        [EVERYWHERE, PAINTED, UNPAINTED], value=EVERYWHERE, label="The style applies"
      )
      self.brush = Brush(
        label="Paint here",
        type="filepath",
        sources=(),
        transforms=(),
        layers=False,
        brush=gr.Brush(default_size=40, colors=["#e5484d"], color_mode="fixed"),
        eraser=gr.Eraser(default_size=40),
        buttons=[],
        height=420,
        elem_id="brush",
      )
      self.brush.blob_storage = _Bounded()

  def add_result(self) -> None:
    """The button, and what it makes."""
    self.button = gr.Button("Stylize", variant="primary", size="lg", elem_id="go")
    self.status = gr.HTML(_status("Choose a picture and a style, then press Stylize."))
    self.result = gr.HTML(_empty(), elem_id="result")
    with gr.Row():
      self.png = gr.DownloadButton("Download PNG", interactive=False, elem_id="png")
      self.jpeg = gr.DownloadButton("Download JPEG", interactive=False, elem_id="jpeg")

  def connect(self) -> None:
    """Says what the parts call."""
    self.button.click(
      self._paint,
      [
        self.content, self.upload, self.style, self.own_style, self.second, self.own_second,
        self.share, self.alpha, self.detail, self.color, self.strokes, self.refine, self.size,
        self.model, self.region, self.brush,
      ],
      [self.status, self.result, self.png, self.jpeg],
      concurrency_limit=1,
      show_progress="minimal",
      show_progress_on=[self.result],
      api_visibility="private",
    )  # fmt: skip
    quiet: Any = {"show_progress": "hidden", "api_visibility": "private"}
    for own, tiles, default in (
      (self.upload, self.content, FIRST_CONTENT),
      (self.own_style, self.style, FIRST_STYLE),
      (self.own_second, self.second, NONE),
    ):

      def check(path: str | None, default: str = default) -> tuple[Any, Any, Any]:
        return _took(default, path)

      for event in (own.input, own.clear):
        event(check, own, [tiles, own, self.status], concurrency_limit=2, **quiet)
      tiles.input(lambda: None, None, own, **quiet)

    is_open, loaded = gr.State(False), gr.State(None)
    given, shown = [self.content, self.upload, loaded], [self.brush, loaded]
    self.brush_part.expand(self._open_brush, given, [is_open, *shown], **quiet)
    self.brush_part.collapse(lambda: False, None, is_open, **quiet)
    for part in (self.content, self.upload):
      part.change(self._ground, [*given, is_open], shown, **quiet)

  def _chosen(self, example: str | None, path: str | None) -> Path:
    if path is not None:
      return Path(path)
    if example not in self._contents:
      raise Refused("Choose a picture first: upload one, or take an example.")
    return self._contents[example]

  def _paint(self, *values: Any) -> Iterator[Any]:
    """Makes a picture; yields the status, the result and both files, again and again."""
    (
      example, path, style_name, style_path, second_name, second_path, mix, strength, fine, colors,
      coarse, steps, pixels, which, area, layer,
    ) = values  # fmt: skip
    try:
      if pixels not in work.SIZES or which not in self._studio.models:
        raise Refused("Choose a size and a model first.")
      wish = Wish(
        content=self._chosen(example, path),
        style=Path(style_path) if style_path else self._styles[style_name or FIRST_STYLE],
        model=which,
        second=Path(second_path) if second_path else self._styles.get(second_name),
        share=mix,
        alpha=strength,
        detail=fine,
        palette=self._palette,
        evenness=self._evenness,
        refine=steps,
        color=colors,
        strokes=coarse,
        size=work.SIZES[pixels],
        brush=_mask(area, layer),
      )
      for step in self._studio.render(wish):
        if isinstance(step, str):
          yield _status(step, busy=True), *[gr.skip()] * 3
        else:
          yield _status("Writing the files to download.", busy=True), *[gr.skip()] * 3
          of = Path(path).stem if path else example
          by = Path(style_path).stem if style_path else style_name
          if wish.second is not None and wish.share > 0:  # named as on the command line
            by = f"{by}+{Path(second_path).stem if second_path else second_name}"
          yield _shown(step, self._folder, str(of), str(by))
    except Exception as error:
      yield _status(_reason(error), failed=True), *[gr.skip()] * 3

  def _ground(self, example: str | None, path: str | None, loaded: Any, is_open: bool) -> Any:
    """What the brush paints on, and of which picture it is; another one takes its painting."""
    key = path or example
    if loaded == key:
      return gr.skip(), key
    if not is_open:
      return None, None
    try:
      picture = work.check_upload(self._chosen(example, path), name="Your picture")
    except Exception:  # which the upload has reported
      return None, None
    with tempfile.NamedTemporaryFile(dir=self._folder, suffix=".jpg", delete=False) as file:
      picture.save(file, "JPEG", quality=85)
    return {"background": file.name, "layers": [], "composite": None}, key

  def _open_brush(self, example: str | None, path: str | None, loaded: Any) -> Any:
    return True, *self._ground(example, path, loaded, True)


def _took(default: str, path: str | None) -> tuple[Any, Any, Any]:
  """An upload: the example is not chosen any more, or is again if it cannot be used."""
  if path is None:
    return default, gr.skip(), gr.skip()
  try:
    work.check_upload(Path(path), name=Path(path).name)
  except Exception as error:
    return default, None, _status(_reason(error), failed=True)
  return None, gr.skip(), _status("Ready.")


def first_wish(model: str, **look: Any) -> Wish:
  """Returns what the page asks for if nothing is changed; the look is in arguments of `build`."""
  contents, styles = work.examples("content"), work.examples("style")
  pictures = contents[FIRST_CONTENT], styles[FIRST_STYLE]
  return Wish(*pictures, model, **look)


def launch(page: gr.Blocks, *, host: str, port: int, share: bool) -> str | None:
  """Serves the page in threads of its own; returns the public address, with `share`.

  Raises:
    OSError: the port is in use.
    RuntimeError: there is no public address.
  """
  font: Any = ["system-ui", "sans-serif"]
  _, _, public = page.launch(
    server_name=host,
    server_port=port,
    share=share,
    quiet=True,
    prevent_thread_lock=True,
    show_error=True,
    max_file_size=work.MAX_UPLOAD_BYTES,
    footer_links=[],
    run_history=False,
    enable_monitoring=False,
    mcp_server=False,
    ssr_mode=False,
    pwa=False,
    state_session_capacity=100,
    theme=themes.Default(
      primary_hue="indigo",
      neutral_hue="slate",
      font=font,
      font_mono=["ui-monospace", "monospace"],
    ),
    css=_css(),
    js=NAMES,
    app_kwargs={
      "openapi_url": None,
      "middleware": [Middleware(Limits, most=MOST_BYTES), Middleware(NoCards)],
    },
  )
  return public


def _mask(area: str, layer: bytes | None) -> Image.Image | None:
  """Returns where the style applies; None: everywhere.

  Raises:
    Refused: nothing is painted where something has to be.
  """
  if area == EVERYWHERE:
    return None
  mask = None if layer is None else work.painted_mask(layer)
  if mask is None:
    raise Refused(f"Nothing is painted yet: paint on the picture, or choose “{EVERYWHERE}”.")
  return mask if area == PAINTED else mask.point(lambda value: 255 - value)


def _shown(made: Made, folder: Path, content: str, style: str) -> tuple[Any, ...]:
  """Writes a result, and returns what the page shows of it."""
  height, width = made.after.shape[:2]
  paths = work.save(folder, f"{content}--{style}", made.after)
  before, after = (
    work.data_uri(work.small(Image.fromarray(picture), work.PREVIEW))
    for picture in (made.before, made.after)
  )
  once = "; later pictures like this are faster" if made.compiled else ""
  return (
    _status(f"Done in {made.seconds:.1f} s: {width} x {height} pixels{once}."),
    _compare(
      before,
      after,
      f"Before: {content}",
      f"After: {content} in the style of {style}",
      width / height,
    ),
    gr.update(value=str(paths[".png"]), interactive=True),
    gr.update(value=str(paths[".jpg"]), interactive=True),
  )


def _status(text: str, *, busy: bool = False, failed: bool = False) -> str:
  kind = "failed" if failed else "busy" if busy else "idle"
  return f'<p class="status {kind}" role="status" aria-live="polite">{html.escape(text)}</p>'


def _empty() -> str:
  return '<div class="empty">The result will be here.</div>'


def _compare(before: str, after: str, of_before: str, of_after: str, ratio: float) -> str:
  """Returns two pictures of one size, one on the other, with a slider between them."""
  move = "this.parentNode.style.setProperty('--at', this.value + '%')"
  return (
    f'<div class="compare" style="--at: 50%; --ratio: {ratio:.4f}">'
    f'<div class="pair"><img src="{after}" alt="{html.escape(of_after)}">'
    f'<img class="before" src="{before}" alt="{html.escape(of_before)}"><i></i></div>'
    f'<input type="range" min="0" max="100" value="50" step="1" oninput="{move}" '
    f'aria-label="How much of the picture before is shown, in percent">'
    f'<p class="ends" aria-hidden="true"><span>before</span><span>after</span></p></div>'
  )


def _reason(error: Exception) -> str:
  """Returns what went wrong, for the page's reader."""
  if isinstance(error, ValueError):  # also ImageError and Refused
    return str(error)
  if isinstance(error, FileNotFoundError):
    return "The picture was deleted in the meantime; upload it again."
  if isinstance(error, OSError):
    return error.strerror or "A file cannot be read or written."
  if isinstance(error, MemoryError):
    return "There is not enough memory for this picture; scale it down first."
  traceback.print_exception(error)
  return "This is an error of the page itself; the terminal that runs it shows which."


def _css() -> str:
  tiles = []
  for role in ("content", "style"):
    for name, path in work.examples(role).items():
      picture = images.decode(images.read_file(path), name=str(path), at_least=THUMBNAIL)
      uri = work.data_uri(work.small(picture, THUMBNAIL), quality=80)
      tiles.append(
        f'.tiles label:has(input[value="{name}"])::before {{ background-image: url({uri}); }}'
      )
  return "\n".join([CSS, *tiles])


# Gradio names neither its groups, nor uploads, nor the brush's canvas for screen readers.
NAMES = """() => {
  const name = () => {
    for (const group of document.querySelectorAll("fieldset:not([aria-label])"))
      group.ariaLabel = group.querySelector("[data-testid=block-info]")?.innerText ?? "";
    for (const picture of document.querySelectorAll("#upload img, #own-style img, #own-second img"))
      picture.alt ||= picture.closest("#upload") ? "Your picture" : "Your style";
    for (const canvas of document.querySelectorAll("#brush canvas:not([aria-label])")) {
      canvas.role = "img";
      canvas.ariaLabel = "The picture to paint on, with a pointer";
    }
  };
  new MutationObserver(name).observe(document.body, { childList: true, subtree: true });
  name();
}"""

CSS = """
.gradio-container { max-width: 1240px !important; overflow: visible !important; }
.head h1 { font-size: 1.6rem; margin: 0 0 .2rem; }
.head p { margin: 0; color: var(--body-text-color-subdued); }
.tiles .wrap { display: grid; grid-template-columns: repeat(4, 1fr); gap: 6px; }
.tiles label { display: flex; flex-direction: column; align-items: stretch; gap: 2px;
  padding: 4px; position: relative; cursor: pointer; min-width: 0; }
.tiles label::before { content: ""; display: block; width: 100%; aspect-ratio: 3 / 2;
  border-radius: 4px; background: var(--background-fill-secondary) center / cover; }
.tiles label input { position: absolute; opacity: 0; width: 100%; height: 100%; inset: 0;
  margin: 0; cursor: pointer; }
.tiles label span { margin: 0; font-size: .75rem; text-align: center; overflow: hidden;
  text-overflow: ellipsis; }
.tiles label:has(input:checked) { outline: 3px solid var(--color-accent); outline-offset: -1px; }
.tiles label:has(input:focus-visible) { box-shadow: 0 0 0 4px var(--color-accent-soft);
  outline: 3px solid var(--color-accent); outline-offset: 1px; }
button:focus-visible, input[type=range]:focus-visible, .compare input:focus-visible {
  outline: 3px solid var(--color-accent) !important; outline-offset: 2px; }
#right .block, #right .html-container { padding: 0; }
#right { position: sticky; top: 12px; align-self: flex-start; }
.status { margin: 0; padding: 10px 12px; border-radius: 8px;
  border: 1px solid var(--border-color-primary); background: var(--background-fill-secondary); }
.status.busy { border-color: var(--color-accent); }
.status.failed { border-color: #c62a2f; background: #ffefef; color: #7d1a1d; }
.dark .status.failed { background: #3c181a; color: #ffd1d1; }
.empty { display: grid; place-items: center; min-height: 260px; border-radius: 8px;
  border: 1px dashed var(--border-color-primary); color: var(--body-text-color-subdued); }
.compare { width: min(100%, calc(70vh * var(--ratio))); margin: 0 auto; }
.compare .pair { position: relative; line-height: 0; }
.compare img { width: 100%; border-radius: 8px; display: block; }
.compare img.before { position: absolute; inset: 0; width: 100%; height: 100%;
  clip-path: inset(0 calc(100% - var(--at)) 0 0); }
.compare i { position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px;
  margin-left: -1px; background: #fff; box-shadow: 0 0 3px #000; pointer-events: none; }
.compare input { width: 100%; margin: 10px 0 0; accent-color: var(--color-accent); height: 28px; }
.compare .ends { display: flex; justify-content: space-between; margin: 0; font-size: .8rem;
  color: var(--body-text-color-subdued); }
footer { display: none !important; }
@media (max-width: 700px) {
  #right { position: static; }
  .gradio-container { padding: 8px !important; }
  #sliders { flex-direction: column; }
  #sliders > * { width: 100%; }
  .tiles label { padding: 3px 1px; }
  .tiles label span { font-size: .64rem; }
}
"""
