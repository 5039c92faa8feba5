"""AdaIN with the published settings (Huang & Belongie 2017).

    python train.py --config configs/adain.py --workdir runs/adain \
      --config.data.content=COCO_DIR --config.data.style=WIKIART_DIR

Data: MS-COCO 2014 or 2017 training images as contents, WikiArt as styles.

Cost: 220 GFLOP per pair, forward and backward (XLA's count), so 160,000 steps of 8 pairs are
2.8e17. A device that sustains 60 TFLOP/s of float32 convolutions, a third of the peak that a TPU
v5e chip has in bfloat16, would take 1.3 hours; two CPU cores that sustain 0.14 take 23 days. Both
are this arithmetic and not measurements.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Returns the config; every number that is not from the paper says so."""
  config = ConfigDict()
  config.seed = 0
  # A trained model that a new run starts from, with a fresh optimizer: what infer.py's --model
  # takes. A run that goes on does so from its own checkpoint.
  config.init_from = ""
  config.batch_size = 8  # over all devices
  config.num_steps = 160_000
  # Steps in which every content is its own style, to teach the decoder to invert VGG first. Not
  # in the paper; for runs much shorter than its own.
  config.reconstruct_steps = 0

  config.model = ConfigDict()
  config.model.transform = "adain"
  config.model.settings = ConfigDict()  # attributes of the class in models/
  config.model.vgg = "vgg19"
  config.model.vgg_weights = ""  # a file of `python -m adaconv_jax.cli.vgg`; "" finds them
  config.model.vgg_padding = "reflect"
  # Of the activations in training: "float32" or "bfloat16". Parameters, statistics and losses are
  # float32, and so is everything when a trained model is loaded.
  config.model.compute_dtype = "float32"

  config.data = ConfigDict()
  config.data.content = ""  # a folder, or tfds:DIR[:split]
  config.data.style = ""
  config.data.min_size = 256  # skip images with a shorter side below; not in the paper
  # Images kept out of training, for sample grids and held-out losses. The seed chooses them, or a
  # file lists their names, one per line, and then the number is of no importance.
  config.data.heldout_content = 4
  config.data.heldout_style = 4
  config.data.heldout_content_names = ""
  config.data.heldout_style_names = ""
  config.data.content_resize = 512  # shorter side
  config.data.content_crop = 256
  config.data.style_resize = 512
  config.data.style_crop = 256
  # Crops of every style, which then come in turns; their VGG features are computed once and kept in
  # memory, one megabyte each. It saves a CPU a fifth of a small AdaConv's time on contents of 128
  # pixels. 0 cuts anew at every visit, as published.
  config.data.kept_style_crops = 0
  config.data.num_workers = 8  # processes that decode images

  config.loss = ConfigDict()
  config.loss.content_weight = 1.0
  config.loss.style_weight = 10.0
  config.loss.style_layers = ConfigDict(
    {"relu1_1": 1.0, "relu2_1": 1.0, "relu3_1": 1.0, "relu4_1": 1.0}
  )
  config.loss.style_ramp_steps = 0  # 0: the full style weight from the start
  config.loss.pixel_weight = 0.0  # in the reconstruction steps only
  # Against patterns of 2 pixels, which a short run draws on plain surfaces; after the
  # reconstruction steps. Not in the paper.
  config.loss.checkerboard_weight = 0.0

  config.optimizer = ConfigDict()
  config.optimizer.learning_rate = 1e-4
  config.optimizer.warmup_steps = 0
  config.optimizer.decay = "inverse_time"
  config.optimizer.decay_rate = 5e-5
  config.optimizer.clip_norm = 0.0  # 0: no clipping
  # Factor of the learning rate of AdaConv's style encoder and predictors of spatial kernels.
  config.optimizer.style_rate = 1.0

  # Decay of a moving average of the parameters, such as 0.999, which is then what is used: by
  # sample grids, when the workdir is loaded, and when it is exported. 0 keeps none; not in the
  # papers.
  config.ema_decay = 0.0

  config.log_every_steps = 100
  # Period of the losses on the held-out images, a few batches; 0 measures none.
  config.eval_every_steps = 0
  config.sample_every_steps = 2_000
  config.sample_size = 256
  # Contents and styles in a grid, at most; training images where none are held out.
  config.sample_images = 4
  config.checkpoint_every_steps = 2_000
  config.keep_last = 3
  config.keep_every_steps = 40_000
  return config.lock()
