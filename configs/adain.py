"""AdaIN with the published settings (Huang & Belongie 2017).

    adaconv train --config adain --workdir runs/adain \
      --config.data.content=COCO_DIR --config.data.style=WIKIART_DIR

Data: MS-COCO 2014 or 2017 training images as contents, WikiArt as styles. VGG-19 is torchvision's,
normalized like the authors' own. `docs/training.md` lists what is as published and what is not.

Cost: 220 GFLOP per pair, forward and backward (XLA's count), so 160,000 steps of 8 pairs are
2.8e17. A device that sustains 60 TFLOP/s of float32 convolutions, a third of the peak that a TPU
v5e chip has in bfloat16, would take 1.3 hours; two CPU cores that sustain 0.14 take 23 days. Both
are calculated, not measured.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Returns the config; comments mark the settings that are not from the paper."""
  config = ConfigDict()
  config.seed = 0
  # A trained model that a new run starts from, with a fresh optimizer; anything that the --model of
  # `adaconv stylize` takes. A resumed run ignores it and continues from its own checkpoint.
  config.init_from = ""
  config.batch_size = 8  # over all devices
  config.num_steps = 160_000
  # First steps, in which every content is its own style, to teach the decoder to invert VGG. Not
  # in the paper; for much shorter runs.
  config.reconstruct_steps = 0

  config.model = ConfigDict()
  config.model.transform = "adain"
  config.model.settings = ConfigDict()  # attributes of the class in adaconv_jax/models/
  config.model.vgg = "vgg19"
  config.model.vgg_weights = ""  # a file from `adaconv vgg`; "" finds normalized ones
  config.model.vgg_padding = "reflect"
  # Type of the activations in training, "float32" or "bfloat16". Parameters, statistics and losses
  # are float32, and so is everything when a trained model is loaded.
  config.model.compute_dtype = "float32"

  config.data = ConfigDict()
  config.data.content = ""  # a folder, or tfds:DIR[:split]
  config.data.style = ""
  config.data.min_size = 256  # skip images with a shorter side below this; not in the paper
  # Number of images kept out of training, for sample grids and held-out losses. The seed chooses
  # them. If a file lists their names, one per line, the number is ignored.
  config.data.heldout_content = 4
  config.data.heldout_style = 4
  config.data.heldout_content_names = ""
  config.data.heldout_style_names = ""
  config.data.content_resize = 512  # shorter side
  config.data.content_crop = 256
  config.data.style_resize = 512
  config.data.style_crop = 256
  # Number of crops of every style, which are used in turn. Their VGG features are computed once and
  # kept in memory, one megabyte each. On a CPU this saves a small AdaConv a fifth of its time, with
  # contents of 128 pixels. 0 makes a new crop at every visit, as published.
  config.data.kept_style_crops = 0
  config.data.num_workers = 8  # processes that decode images
  # Share of the contents, and of the styles, that may break (be deleted, changed or unreadable)
  # during a run, but at least one image: others replace them, with a warning. If more break, or any
  # with 0, the run saves and stops.
  config.data.max_broken_share = 0.05

  config.loss = ConfigDict()
  config.loss.content_weight = 1.0
  config.loss.style_weight = 10.0
  config.loss.style_layers = ConfigDict(
    {"relu1_1": 1.0, "relu2_1": 1.0, "relu3_1": 1.0, "relu4_1": 1.0}
  )
  config.loss.style_ramp_steps = 0  # 0: the full style weight from the start
  config.loss.pixel_weight = 0.0  # in the reconstruction steps only
  # Penalty on patterns of 2 pixels, which a short run draws on plain surfaces; after the
  # reconstruction steps. Not in the paper.
  config.loss.checkerboard_weight = 0.0
  # For positions of the output to be alike where those of the content are, against marks on plain
  # surfaces; after the reconstruction steps. Not in the paper.
  config.loss.self_similarity_weight = 0.0
  # For the output to have the style's colors in the style's shares; after the reconstruction steps.
  # Not in the paper.
  config.loss.palette_weight = 0.0
  # For fine structure to be where the content has it, whatever its contrast and colors; for
  # "adaconv_plus", whose decoder can see it. After the reconstruction steps. Not in the paper.
  config.loss.detail_weight = 0.0
  # For the output to have the content's relu4_1 but for the means and deviations of the channels,
  # which are the style's; beside or in place of the content loss. After the reconstruction steps.
  # Not in the papers.
  config.loss.structure_weight = 0.0
  # For colors of the output to be alike where the content's are, against halos and marks on plain
  # surfaces; after the reconstruction steps. Not in the papers.
  config.loss.evenness_weight = 0.0

  config.optimizer = ConfigDict()
  config.optimizer.learning_rate = 1e-4
  config.optimizer.warmup_steps = 0
  config.optimizer.decay = "inverse_time"
  config.optimizer.decay_rate = 5e-5
  config.optimizer.clip_norm = 0.0  # 0: no clipping
  # Factor on the learning rate of AdaConv's style encoder and predictors of spatial kernels.
  config.optimizer.style_rate = 1.0

  # Decay of a moving average of the parameters, such as 0.999. Sample grids, held-out losses,
  # loaded models and exported ones then use the average. 0 keeps none; not in the papers.
  config.ema_decay = 0.0

  # A step whose loss or gradient is not finite is skipped. So is one whose loss is far above the
  # earlier ones: by more than this number of standard deviations above the mean, both of the
  # logarithm and over about the last 100 steps. 10 is at least a factor of 12; 0 skips no finite
  # loss.
  config.skip_loss_above = 10.0
  # The run stops after this many skipped steps in a row.
  config.max_skipped_steps = 10

  # Periods; 0 turns one off. The last step is saved in any case.
  config.log_every_steps = 100
  # How often the losses on the held-out images are measured, a few batches; 0: never.
  config.eval_every_steps = 0
  config.sample_every_steps = 2_000
  config.sample_size = 256
  # Contents and styles in a grid, at most; training images if none are held out.
  config.sample_images = 4
  config.checkpoint_every_steps = 2_000
  config.keep_last = 3
  config.keep_every_steps = 40_000
  return config.lock()
