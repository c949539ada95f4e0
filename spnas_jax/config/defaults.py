"""Every configuration key with its default.

`configs/*.py` start from `default_config()` and change what their experiment
needs. `rules.check` refuses wrong values before anything is compiled.

The default of a new key must mean what versions without the key did, so that
their workdirs can be continued (`workdir.py`).
"""

from __future__ import annotations

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from spnas_jax.data import datasets


def default_config() -> ConfigDict:
  """All keys; the values are those of the embedded digits data set."""
  config = ConfigDict()
  # For everything random: initialisation, gates, dropout, shuffling, sampling.
  config.seed = 0
  # What `train` trains: a zoo name (NAME:torch pads and norms as PyTorch does),
  # the path of an architecture.json, a block string, or curve:NAME, a point of
  # the workdir's curve; '' = the workdir's architecture.json, which `search`
  # leaves.
  config.architecture = ''
  # Path of the latency table (JSON), or 'measure': before the first stage that
  # needs one, build_table times `device` and leaves one in the workdir.
  config.latency_table = ''
  # What `build_table`, `validate_table` and `profile` measure: 'host', 'adb' (a
  # phone), 'ssh' (another computer), or 'files': models are written for
  # somebody else to time (docs/device.md).
  config.device = 'host'
  # Several machines as one run: address and port of process 0 ('HOST:PORT'),
  # number of processes, and which one this is, from 0; '' = what
  # JAX_COORDINATOR_ADDRESS and its kin say, or the TPU's metadata. `mapping`:
  # how JAX maps a step over the devices, by 'pmap' or by 'shard_map' (jit of
  # shard_map, which JAX recommends); the results are the same to the bit.
  config.processes = ConfigDict(
    {'coordinator': '', 'count': 1, 'index': 0, 'mapping': 'pmap'}
  )
  config.dataset = datasets.default_config()
  config.space = _space()
  config.search = _search()
  config.train = _train()
  config.evaluate = _evaluate()
  config.export = _export()
  config.profile = _profile()
  config.predict = _predict()
  config.build_table = _build_table()
  config.validate_table = _validate_table()
  config.random_search = _random_search()
  config.compare = _compare()
  config.compare_zoo = _compare_zoo()
  config.ablate = _ablate()
  config.compile = _compile()
  # Workdirs that the report lays side by side in report/comparison.html; () =
  # only --workdir's own page.
  config.report = ConfigDict({'workdirs': ()})
  return config


def _space() -> ConfigDict:
  c = ConfigDict()
  # Kernel size (odd) and stride of the stem convolution, and its channels.
  c.stem_kernel = 3
  c.stem_stride = 2
  c.stem_channels = 8
  # Fixed blocks before and after the searchable stages, as block strings.
  c.first = ''
  c.last = ''
  # Channels, number of layers and first stride of every searchable stage.
  c.channels = (16, 24, 32)
  c.layers = (3, 3, 3)
  c.strides = (2, 2, 1)
  # Candidates of every layer, ascending; a tuple of tuples gives each stage its
  # own. Depthwise kernel sizes (odd), expansion ratios, squeeze-and-excitation
  # ratios ((0.0,) = none, (0.0, 0.25) = searched).
  c.kernels = (3, 5)
  c.expansions = (3, 6)
  c.squeeze_ratios = (0.0,)
  # Channels of the 1x1 head convolution; 0 = none.
  c.head_channels = 128
  # Width multiplier of stem, stages and fixed blocks (rounded to multiples of
  # 8, never below 90%); the head keeps its width.
  c.width = 1.0
  # 'relu' or 'relu6'; also for block strings in `architecture`.
  c.activation = 'relu'
  # Share of old batch statistics kept per step (0.99 in the reference, whose
  # runs are long; the embedded data sets train for a few hundred steps), and
  # what is added to variances. For every network that is trained, wherever it
  # comes from; only PyTorch's (NAME:torch) keep the epsilon of their weights.
  c.batch_norm_momentum = 0.9
  c.batch_norm_epsilon = 1e-3
  return c


def _recipe() -> ConfigDict:
  """What searching and training share."""
  c = ConfigDict()
  # Passes over the training images.
  c.epochs = 30.0
  # Images per step over all devices and processes.
  c.batch_size = 64
  # 'rmsprop' (TensorFlow 1's), 'sgd' (Nesterov 0.9) or 'adamw'.
  c.optimizer = 'rmsprop'
  # Peak learning rate per 256 images of batch.
  c.learning_rate = 0.032
  # Linear warm-up of the learning rate, epochs.
  c.lr_warmup_epochs = 1.0
  # 'cosine' (to 0), 'exponential' (stairs) or 'constant'.
  c.schedule = 'cosine'
  # 'exponential': factor, and epochs between stairs.
  c.decay_rate = 0.97
  c.decay_epochs = 2.4
  # Coefficient of 1/2 sum of squares in the loss.
  c.weight_decay = 1e-5
  # Probability mass spread over all classes, fraction.
  c.label_smoothing = 0.1
  # 'loss': every class counts as much as any other in the loss, however many
  # images it has; '' = every image counts the same.
  c.class_balance = ''
  # Share of pooled features dropped before the classifier, fraction.
  c.dropout = 0.0
  # Largest decay of the moving average of weights and batch statistics.
  c.ema_decay = 0.999
  # Batch-norm statistics over all devices (True) or per device, the
  # reference's way (False). True: the device count does not change the result.
  c.sync_batch_norm = True
  # Training batches from which batch-norm statistics are re-estimated for the
  # network that is scored and kept: after training, and of decoded networks
  # inside a supernet. Running averages lag where steps are few.
  c.batch_norm_batches = 20
  # Compute type: 'float32' or 'bfloat16'. Losses, statistics, norms, thresholds
  # and the runtime term stay float32.
  c.dtype = 'float32'
  # Keep only the input of every block for the backward pass and compute the
  # rest again: less memory, longer steps (docs/speed.md has both). For the
  # single-path supernet and for training; other methods of `compare` ignore it.
  c.remat = False
  # Steps between lines of the log.
  c.log_every_steps = 50
  # A profiler trace for TensorBoard: the step (from 1) it begins at, 0 = none;
  # and how many steps it has. The first step is mostly compilation.
  c.trace_step = 0
  c.trace_steps = 3
  # Epochs between checkpoints.
  c.checkpoint_epochs = 5.0
  # Go on from the newest checkpoint that can be read, and move those that
  # cannot to `checkpoints_damaged`; False = stop and name the damaged one.
  c.skip_damaged_checkpoint = False
  return c


def _search() -> ConfigDict:
  c = _recipe()
  # 'gradient': thresholds are trained with the weights. 'evolution': networks
  # are bred by their scores inside a trained supernet. 'worth': what each
  # decision is worth is fitted to the scores of random networks inside one.
  c.method = 'gradient'
  # Workdir of a finished search of the same space, but for the classes, whose
  # supernet this one starts from; '' = from scratch. Thresholds start anew, and
  # so does the classifier where the classes differ.
  c.init = ''
  # Formulation of the gates: 'sampled', 'official' or 'paper' (gates.py).
  c.gates = 'sampled'
  # Latency that the found network has to meet, ms. Unset: target_fraction.
  c.target_ms = placeholder(float)
  # Target as a fraction of the way from the space's fastest network (0) to its
  # slowest (1); used while target_ms is unset.
  c.target_fraction = 0.5
  # Fixed weight of ln R instead of a target: no controller, no projection. The
  # authors' 0.020 is 20 here.
  c.lambda_ = placeholder(float)
  # Subset dropout without a runtime term, epochs, part of `epochs`.
  c.warmup_epochs = 12.0
  # Probability that a subset is kept during warm-up, fraction.
  c.keep_probability = 0.6
  # Runtime model in the loss: 'exact', 'factorised', '' = the formulation's.
  c.runtime_form = ''
  # Gate samples: 'shared' by all devices (the result does not depend on their
  # number), or drawn 'per_device' (the reference's way, less noise).
  c.gate_samples = 'shared'
  # Temperature of the sampled gates: start and end, and the fractions of the
  # search phase between which it falls geometrically.
  c.temperature_start = 1.0
  c.temperature_end = 0.05
  c.temperature_fall = (0.2, 0.9)
  # Log-odds of every gate at the end of warm-up.
  c.start_logit = 1.0
  # Distance a gate's log-odds can travel in the search phase.
  c.threshold_travel = 8.0
  # Largest absolute log-odds of a gate.
  c.logit_limit = 6.0
  # lambda controller: fraction of the search phase after which the ramp is at
  # the target; gains on ln(E[R]/target) and on its integral; limit.
  c.controller = ConfigDict(
    {'ramp': 0.6, 'proportional': 2.0, 'integral': 4.0, 'limit': 20.0}
  )
  # The found network's latency lies in [(1 - slack) target, target], fraction.
  c.slack = 0.02
  # Largest .tflite file of the found network, kB (1,000 bytes), in the table's
  # precision and without metadata; 0 = any.
  c.max_kb = 0.0
  # method 'worth', more networks from the same supernet: their targets, ms; or
  # how many, evenly spread over the space's latencies, the slowest network the
  # last of them; () and 0 = no more.
  c.targets_ms = ()
  c.curve_points = 0
  # method 'worth': random networks that are scored. Images per score, there and
  # where the decisions of a found network are weighed.
  c.worth = ConfigDict({'networks': 75, 'images': 1000})
  # methods 'evolution' and 'worth': workdir of a finished search whose supernet
  # is used ('' = train one here, all epochs in warm-up).
  # method 'evolution': networks per generation;
  # generations; probability that a layer is drawn again; images per score;
  # latencies, besides the target, at which the Pareto front is searched.
  c.evolution = ConfigDict(
    {
      'supernet': '',
      'population': 16,
      'generations': 8,
      'mutation': 0.15,
      'images': 1000,
      'front_points': 4,
    }
  )
  return c


def _train() -> ConfigDict:
  c = _recipe()
  # Alpha of mixup's Beta distribution (0.2 is usual); 0 = no mixup.
  c.mixup = 0.0
  # Weights at the start: 'scratch'; 'inherit', from the search's supernet; the
  # path of an .npz file with a PyTorch state dict (docs/networks.md), which
  # stays as it is if train.epochs is 0; or a workdir with a finished training
  # of the same network but for its classes. Where they differ in number or
  # name, the classifier is new. If neither `architecture` nor this workdir has
  # a network, it is the one trained there.
  c.init = 'scratch'
  # For weights that were given, that is, not with 'scratch': epochs at the
  # start, part of `epochs`, in which only the classifier is trained, 0 = none
  # (batch norm uses the statistics of the batch also then); and factor of the
  # learning rate of everything but the classifier.
  c.freeze_epochs = 0.0
  c.backbone_rate = 1.0
  return c


def _evaluate() -> ConfigDict:
  c = ConfigDict()
  # Images per step over all devices.
  c.batch_size = 120
  # 'test', or 'validation' (images held out of training by dataset.holdout).
  c.split = 'test'
  return c


def _export() -> ConfigDict:
  c = ConfigDict()
  # Subtract mean and divide by std inside the model, so that an app feeds
  # pixels 0..255. False: the app normalises.
  c.normalise_inside = True
  # Training images from which int8 ranges are calibrated.
  c.calibration_images = 256
  # Test images on which exported and JAX outputs are compared; all of them if
  # the latency table is of int8 models, whose accuracy then counts.
  c.check_images = 128
  # Images of one inference; 0 = dynamic.
  c.batch_size = 1
  # What the files give: 'logits', or 'probabilities' (a softmax more), which
  # apps that show percentages or set a threshold want.
  c.output = 'logits'
  # Input and output of the int8 file: 'uint8', as apps feed pixels, or 'int8',
  # as tools for microcontrollers want them.
  c.integers = 'uint8'
  return c


def _profile() -> ConfigDict:
  c = ConfigDict()
  # Interpreter threads.
  c.threads = 1
  # files: what the models are timed on, as tables and results name it.
  c.device_name = 'a device without a name'
  # Unmeasured runs before the first round.
  c.warmup_runs = 20
  # Interleaved rounds, and runs in each.
  c.rounds = 20
  c.runs_per_round = 10
  # adb: serial of the phone ('' = the only one attached).
  c.adb_serial = ''
  # ssh: the host as ssh takes it, an ssh configuration file ('' = the user's
  # own), and how Python starts there.
  c.ssh_host = ''
  c.ssh_config = ''
  c.ssh_python = 'python3'
  # adb, ssh: what runs the operations, 'xnnpack', 'none' (the runtime's own
  # kernels), 'gpu' or 'nnapi' (ssh's Python: 'xnnpack' or 'gpu'); and the cores
  # that may be used, a hexadecimal mask as taskset takes it, '' = all.
  c.delegate = 'xnnpack'
  c.adb_cpu_mask = ''
  # adb, ssh: path, on this machine, of the device's benchmark_model ('' = with
  # ssh its Python, which needs ai-edge-litert); seconds of rest between models.
  c.benchmark_model = ''
  c.cooldown_seconds = 10.0
  # Longest run of one measurement, seconds.
  c.timeout_seconds = 300.0
  return c


def _predict() -> ConfigDict:
  c = ConfigDict()
  # An image, or a folder of images with the folders below it.
  c.images = ''
  # Path of an exported file; '' = the workdir's model.tflite.
  c.model = ''
  # Most likely classes that are named for each image.
  c.top_k = 1
  return c


def _build_table() -> ConfigDict:
  c = ConfigDict()
  # Name written into the table.
  c.name = 'host'
  # What is timed: 'float32', 'float16' (weights) or 'int8' models. The table
  # says it: who reads it times alike, and exports that as the main file.
  c.precision = 'float32'
  # device 'files': path of a CSV `network,ms` with times of whole networks, to
  # which the entries are fitted; '' = operations are timed.
  c.networks = ''
  # Whole random networks timed to fit the calibration factor; 0 = factor 1.
  c.calibration_networks = 6
  # Interleaved rounds over all operations, runs of each in a round, and
  # unmeasured runs before the first.
  c.rounds = 20
  c.runs_per_round = 10
  c.warmup_runs = 5
  return c


def _validate_table() -> ConfigDict:
  c = ConfigDict()
  # Random networks that the table has not seen.
  c.num_networks = 20
  # Also write latency_table_recalibrated.json: the table with the factor that
  # its own networks have today.
  c.recalibrate = False
  # Interleaved rounds over all networks, runs of each in a round, and
  # unmeasured runs before the first.
  c.rounds = 20
  c.runs_per_round = 5
  c.warmup_runs = 5
  return c


def _random_search() -> ConfigDict:
  c = ConfigDict()
  # Networks to draw and train.
  c.num_networks = 10
  # The same at every point of the workdir's curve, which is trained as well;
  # 0 = neither.
  c.curve_networks = 0
  # Half-width of the accepted latency band around the target, fraction.
  c.band = 0.02
  # Seeds with which each network (the found one too) is trained.
  c.train_seeds = (0,)
  return c


def _compare_zoo() -> ConfigDict:
  c = ConfigDict()
  # Zoo networks to train with the recipe of `train`.
  c.networks = ('mobilenet_v2', 'mnasnet_b1')
  # Their width multipliers; several make a family (paper Fig. 8).
  c.widths = (1.0,)
  # Those of the network that the workdir's search found.
  c.found_widths = (1.0,)
  # Time every network on `device`, as `profile` says; False: predict from
  # latency_table, where it has the network's operations.
  c.measure = True
  return c


def _ablate() -> ConfigDict:
  c = ConfigDict()
  # What to do: 'kernels' (paper Table 2), 'gates' (gradient against the true
  # change of the loss), 'ranking' (Kendall's tau).
  c.parts = ('kernels', 'gates', 'ranking')
  # gates: random settings of the other gates, and images for each.
  c.contexts = 8
  c.images = 240
  # ranking: random networks, and images that the supernet scores them on.
  c.num_networks = 20
  c.ranking_images = 1000
  return c


def _compare() -> ConfigDict:
  c = ConfigDict()
  # Supernets to compare; they share the space and section `search`.
  c.methods = ('single_path', 'fbnet', 'darts', 'proxyless')
  # Interleaved rounds in which each method's step is timed; 0 = none. A step
  # is one update of the weights and, multi-path, one of the path logits.
  c.rounds = 10
  # Steps of each method before the first round.
  c.warmup_steps = 2
  # Memory is that of the local devices (''), or of a TPU that need not be
  # there, as in compile.topology, which adds its estimated step time.
  c.topology = ''
  # Bisect the largest batch that fits the TPU (a compilation for every try).
  c.find_largest_batch = False
  # Passes over the training images of a real search by each method; 0 = none.
  c.epochs = 0.0
  return c


def _compile() -> ConfigDict:
  c = ConfigDict()
  # TPU topology: generation and chips in x, y (and z: v4, v5p, tpu7x), as in
  # 'v2:2x2', 'v3:4x4', 'v4:2x2x2', 'v5e:4x4', 'v5p:2x2x1', 'v6e:4x4'.
  c.topology = 'v2:2x2'
  # Step to compile: 'search' or 'train'.
  c.step = 'search'
  # Bisect the largest batch that fits (a compilation for every try).
  c.find_largest_batch = False
  return c
