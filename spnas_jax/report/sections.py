"""The page's sections: which pictures and tables, with their captions."""

from __future__ import annotations

from collections.abc import Iterator

from ml_collections import ConfigDict

from spnas_jax.report import (
  decision_figures,
  figures,
  mistake_figures,
  mistakes,
  network_figures,
  predictions,
  settings,
)
from spnas_jax.report import findings as report_data
from spnas_jax.report.accuracy_section import accuracy
from spnas_jax.report.cost import search_cost
from spnas_jax.report.findings import Findings
from spnas_jax.report.numbers import numbers
from spnas_jax.report.page import Picture, Section, drawn
from spnas_jax.report.plot_style import kernel_colour
from spnas_jax.report.tables import (
  latency_table,
  provenance,
  stage_table,
  tables_of,
)
from spnas_jax.report.verdicts import gates_decided


def sections(found: Findings, config: ConfigDict) -> Iterator[Section]:
  """The page's sections, those that the workdir has something for."""
  for make in (
    _network,
    _search,
    _decisions,
    _latency,
    accuracy,
    _mistakes,
    _numbers,
    _comparisons,
    _zoo,
    _provenance,
    lambda found: _settings(found, config),
  ):
    section = make(found)
    if section.pictures or section.tables:
      yield section


def _network(found: Findings) -> Section:
  if found.arch is None:
    return Section('')
  pictures = []
  rows = report_data.network_rows(found)
  sizes = sorted({r.kernel for r in rows if r.layer is not None and r.kernel})
  names = ', '.join(f'{kernel_colour(k)} {k}×{k}' for k in sizes)
  words = (
    'The network from the image (top) to the classes (bottom). Colour and '
    f'height of a block show its kernel size ({names}), its width the '
    'expansion ratio; grey parts were not searched.'
  )
  if any(row.skipped for row in rows):
    words += ' Dotted outlines are layers that the search left out.'
  pictures += drawn(
    found.problems,
    'network',
    words,
    lambda colours: network_figures.network(rows, colours),
  )
  parts = report_data.part_times(found)
  if parts:
    reading = 'Where the predicted time goes, layer by layer.'
    if any(part.slowest_ms for part in parts):
      reading += ' Dotted: what the slowest candidate of the layer would take.'
    if any(part.measured_ms is not None for part in parts):
      reading += ' Upright marks: measured inside the network.'
    pictures += drawn(
      found.problems,
      'layer_times',
      reading,
      lambda colours: network_figures.layer_times(parts, colours),
    )
  return Section(
    'The network',
    'MBConv 5×5-6 is a block that widens its input six-fold, filters it with a '
    '5×5 kernel in each channel and narrows it again.',
    pictures,
  )


def _search(found: Findings) -> Section:
  curves, result = found.search_curves, found.stage('search')
  warmup, pictures = result.get('warmup_steps'), []
  if 'cross_entropy' in curves or 'accuracy' in curves:
    pictures += drawn(
      found.problems,
      'search_learning',
      'How well the supernet classifies while it is searched. Thin: single '
      'batches; thick: smoothed.',
      lambda colours: figures.learning(curves, warmup, colours),
    )
  if 'runtime_ms' in curves:
    target = result.get('target_ms')
    words = (
      'Expected latency R of the supernet. In the warm-up, subsets of the '
      'weights are dropped at random (thin line) and latency does not count; '
    ) + (
      'then λ weighs it against the loss.'
      if target is None
      else 'then λ pulls R along the dotted ramp to the target.'
    )
    pictures += drawn(
      found.problems,
      'search_runtime',
      words,
      lambda colours: figures.runtime(curves, target, warmup, colours),
    )
  return Section(
    'How the search went',
    'One network is trained that contains all candidates; its weights and the '
    'decisions between candidates are learned together.',
    pictures,
    search_cost(found),
  )


def _decisions(found: Findings) -> Section:
  pictures = []
  warmup = found.stage('search').get('warmup_steps')
  steps = found.supernet.get('gate_history_steps')
  logits = found.supernet.get('gate_history_logits')
  space = found.space
  if (
    space is not None
    and gates_decided(found)
    and steps is not None
    and logits is not None
    and logits.shape == (len(steps), len(space.gates))
  ):
    pictures += drawn(
      found.problems,
      'gates',
      'Every decision over the search: orange says yes, blue says no, pale '
      'is undecided. Until the dotted line (warm-up) they are drawn at '
      'random.',
      lambda colours: network_figures.gate_history(
        steps, logits, report_data.gate_rows(space), warmup, colours
      ),
    )
  decisions = found.stage('search').get('decisions') or []
  if decisions:
    pictures += drawn(
      found.problems,
      'worths',
      f'How much each decision lowers the cross-entropy inside the supernet'
      f'{_compared(found)}, beside the milliseconds it adds to this network: '
      'the best bargains on top. Filled: taken. Thin lines: standard errors.',
      lambda colours: decision_figures.worths(decisions, colours),
    )
  kernels = report_data.superkernels(found)
  if kernels:
    pictures += drawn(
      found.problems,
      'superkernels',
      'How much the weights of each superkernel differ between channels; '
      'stronger colour is more. The outline is the kernel that was chosen. '
      'In the paper, the outer ring is pale where 3×3 was chosen.',
      lambda colours: network_figures.superkernels(kernels, colours),
    )
  tables = tables_of(decisions, 'What each decision is worth, in nats')
  return Section('What it decided', '', pictures, tables)


def _compared(found: Findings) -> str:
  """Between which networks a decision's worth is a difference."""
  if 'worth' in found.stage('search'):
    return ', on average over random networks'
  words = ', this network with it against this network without it'
  if gates_decided(found):
    # Open gates train with each other; a closed one is missed the more.
    words += (
      ' (the shared weights are used to what was decided, so that is flattered)'
    )
  return words


def _latency(found: Findings) -> Section:
  unseen, fitted = predictions.unseen(found), predictions.calibrating(found)
  own = predictions.own(found)
  pictures = []
  # One network alone says little of a table: the verdict on it is enough.
  if len(unseen) + len(fitted) + (own is not None) > 1:
    predicted, measured = zip(*unseen, strict=True) if unseen else ((), ())
    pictures += drawn(
      found.problems,
      'predicted_measured',
      predictions.words(found),
      lambda colours: figures.predicted_measured(
        predicted, measured, colours, fitted, own
      ),
    )
  heading = 'Can the latency table be trusted?' if pictures else 'Latency table'
  return Section(heading, '', pictures, latency_table(found))


def _mistakes(found: Findings) -> Section:
  counts, pictures = mistakes.matrix(found), list[Picture]()
  if counts is not None and len(counts) > mistakes.DRAWN:
    pictures += drawn(
      found.problems,
      'confusion',
      'What each class is taken for, in the order of the classes. Blue is '
      'right, orange wrong: the stronger, the larger the share of the class. '
      'Mistakes near the diagonal are between neighbours in the list, an '
      'upright stripe is a class that many are taken for.',
      lambda colours: mistake_figures.confusion_map(counts, colours),
    )
  elif counts is not None:
    pictures += drawn(
      found.problems,
      'confusion',
      'What each class is taken for. Blue is right, orange wrong: the '
      'stronger, the larger the share of the class.',
      lambda colours: mistake_figures.confusion(
        counts, mistakes.names(found), colours
      ),
    )
  worst = mistakes.worst(found)
  if worst:
    pictures += drawn(
      found.problems,
      'mistakes',
      'The mistakes it was surest of: the true class, → what it was taken '
      'for, and the probability that it gave its answer. A label may be wrong, '
      'too.',
      lambda colours: mistake_figures.mistakes(worst, colours),
    )
  return Section(
    'Where it errs',
    mistakes.sentences(found),
    pictures,
    mistakes.tables(found),
  )


def _comparisons(found: Findings) -> Section:
  ablate = found.stage('ablate')
  ranking = ablate.get('ranking') or {}
  tables = [
    *tables_of(
      found.stage('compare_zoo').get('rows'), 'Known networks, trained alike'
    ),
    *stage_table(found, 'compare', 'Single-path against multi-path supernets'),
    *tables_of(
      ablate.get('kernels'), 'Kernels trained alone and as subsets of others'
    ),
    *tables_of(
      (ablate.get('gates') or {}).get('rows'), 'Do gates know what they decide?'
    ),
    *tables_of(
      {k: v for k, v in ranking.items() if k != 'networks'},
      'Does the supernet rank networks as training does?',
    ),
    *stage_table(found, 'compile', 'One step on a TPU, compiled without one'),
  ]
  return Section('Comparisons', '', (), tables)


def _numbers(found: Findings) -> Section:
  table = numbers(found)
  return Section('All numbers', '', (), [table] if table.rows else [])


def _zoo(found: Findings) -> Section:
  text = (
    'Published accuracies on ImageNet; parameters and multiply-adds counted '
    'here, Pixel 1 latency predicted from the published table.'
  )
  return Section('Known networks', text, (), stage_table(found, 'zoo'))


def _provenance(found: Findings) -> Section:
  text = (
    'The configuration is a hash of the keys that the stage depends on: equal '
    'hashes, equal settings. results.json has the keys themselves.'
  )
  return Section('Where the numbers come from', text, (), provenance(found))


def _settings(found: Findings, config: ConfigDict) -> Section:
  if not found.results:
    return Section('')
  text = (
    'What the stages recorded; for other keys, the configuration that drew '
    'this page.'
  )
  return Section('Settings', text, (), settings.tables(found, config))
