"""Buckets that cannot be reached: one line that names the key, no traceback.

No test contacts anything: TensorFlow as it is installed here has no s3://, and
says so with an exception of its own; foo:// is a scheme of nobody.
"""

import pytest
import tiny_run

from spnas_jax.config.routes import resolve_architecture
from spnas_jax.config.workdir import Workdir
from spnas_jax.core.errors import UserError
from spnas_jax.core.remote import reaching
from spnas_jax.data import datasets
from spnas_jax.latency.table import LatencyTable
from spnas_jax.models.torch_weights import load_torch
from spnas_jax.report import findings as report_data
from spnas_jax.search.search_setup import search_inputs
from spnas_jax.stages import train

PLACES = ['s3://nowhere/x', 'foo://nowhere/x']


def table(place, workdir):
  LatencyTable.load(place)


def report_table(place, workdir):
  config = tiny_run.config(latency_table=place)
  report_data._read_table(config, workdir, {})


def architecture(place, workdir):
  resolve_architecture(tiny_run.config(architecture=place), workdir)


def weights(place, workdir):
  load_torch(place, None)


def supernet(place, workdir):
  config = tiny_run.config(search__method='evolution')
  config.search.evolution.supernet = place
  search_inputs(config, LatencyTable.load(config.latency_table))


def data(place, workdir):
  datasets.info(tiny_run.config(dataset__data_dir=place).dataset)


def raw_data(place, workdir):
  config = tiny_run.config(dataset__raw_dir=place)
  config.dataset.update(name='fashion_mnist', data_dir=str(workdir / 'data'))
  train.check(config, workdir)


def folder(place, workdir):
  Workdir(place)


@pytest.mark.parametrize('place', PLACES)
@pytest.mark.parametrize(
  ('touch', 'field'),
  [
    (folder, '--workdir'),
    (table, 'latency_table'),
    (report_table, 'latency_table'),
    (architecture, 'architecture'),
    (weights, 'train.init'),
    (supernet, 'search.evolution.supernet'),
    (data, 'dataset.data_dir'),
    (raw_data, 'dataset.raw_dir'),
  ],
)
def test_a_bucket_out_of_reach_is_named(touch, field, place, tmp_path):
  """By the key that holds it; their libraries' exceptions are no OSErrors."""
  with pytest.raises(UserError) as e:
    touch(place, Workdir(tmp_path))
  text = ' '.join(str(e.value).split())
  assert text.startswith(f'{field} is {place!r}'), text
  assert 'reached' in text if place[0] == 's' else 'gs://BUCKET' in text


def test_only_remote_paths_are_spoken_for(tmp_path):
  """A local path's error is the caller's to explain; so is what was already
  said in one line."""
  with pytest.raises(ZeroDivisionError), reaching('x', tmp_path):
    raise ZeroDivisionError
  with pytest.raises(UserError, match='as it was'), reaching('x', 'gs://b/x'):
    raise UserError('as it was')
  said = pytest.raises(UserError, match=r"x is 'gs://b/x'.*RuntimeError: a b")
  with said, reaching('x', 'gs://b/x'):
    raise RuntimeError('a\nb')
