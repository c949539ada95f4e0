"""A pod slice is joined wherever JAX itself would find it, or refused."""

import http.server
import threading

import jax
import pytest
from jax._src.clusters import cloud_tpu_cluster
from ml_collections import ConfigDict

from spnas_jax.core import processes
from spnas_jax.core.errors import UserError

# What Compute Engine's metadata server says on the second of four hosts.
SLICE = {
  'agent-worker-number': '1',
  'worker-network-endpoints': '10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.4',
  'tpu-env': "ACCELERATOR_TYPE: 'v2-32'",
}
ALONE = {**SLICE, 'agent-worker-number': '0', 'worker-network-endpoints': 'a'}


@pytest.fixture
def joined(monkeypatch):
  """Records how often processes are joined; none really are."""
  calls = []
  monkeypatch.setattr(jax.distributed, 'initialize', lambda *a: calls.append(a))
  for name in ('JAX_COORDINATOR_ADDRESS', 'JAX_PLATFORMS'):
    monkeypatch.delenv(name, raising=False)
  for name in (
    'TPU_WORKER_HOSTNAMES',
    'TPU_PROCESS_ADDRESSES',
    'TPU_SKIP_MDS_QUERY',
  ):
    monkeypatch.delenv(name, raising=False)
  return calls


@pytest.fixture
def metadata(monkeypatch):
  """A Cloud TPU VM whose metadata server is one of ours on loopback."""
  answers: dict[str, str] = {}

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      content = answers.get(self.path.rpartition('/')[2])
      self.send_response(200 if content else 404)
      self.end_headers()
      self.wfile.write((content or '').encode())

    def log_message(self, *_):
      pass

  server = http.server.HTTPServer(('127.0.0.1', 0), Handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  monkeypatch.setenv('GCE_METADATA_IP', f'127.0.0.1:{server.server_port}')
  monkeypatch.setattr(cloud_tpu_cluster, 'running_in_cloud_tpu_vm', True)
  yield answers
  server.shutdown()
  server.server_close()


def test_a_slice_on_compute_engine_is_joined(joined, metadata):
  """It sets no TPU_WORKER_HOSTNAMES: its hosts stand in the metadata."""
  metadata.update(SLICE)
  processes.join()
  assert joined == [()]


def test_a_slice_on_kubernetes_engine_is_joined(joined, metadata, monkeypatch):
  monkeypatch.setenv('TPU_SKIP_MDS_QUERY', '1')
  monkeypatch.setenv('TPU_WORKER_HOSTNAMES', 'a,b')
  monkeypatch.setenv('MEGASCALE_NUM_SLICES', '1')
  processes.join()
  assert joined == [()]


def test_a_single_host_joins_nobody(joined, metadata):
  metadata.update(ALONE)
  processes.join()
  assert joined == []


def test_without_a_cluster_nothing_is_asked(joined, monkeypatch):
  """A laptop, and a TPU VM that is told to use its CPU."""

  def ask(*_):
    raise AssertionError('the metadata server was asked')

  monkeypatch.setattr(cloud_tpu_cluster, 'get_metadata', ask)
  processes.join()
  monkeypatch.setattr(cloud_tpu_cluster, 'running_in_cloud_tpu_vm', True)
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  processes.join()
  assert joined == []


def test_processes_that_the_configuration_names(joined, monkeypatch):
  """They come before the environment's."""
  monkeypatch.setenv('JAX_COORDINATOR_ADDRESS', 'other:1')
  named = {'coordinator': '10.0.0.2:1234', 'count': 4, 'index': 3}
  processes.join(ConfigDict(named))
  assert joined == [('10.0.0.2:1234', 4, 3)]


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    ({'index': 4}, 'processes.index is 4, allowed: 0 to 3'),
    ({'coordinator': 'host'}, "processes.coordinator is 'host', allowed: HOST"),
    ({'coordinator': ':12'}, "processes.coordinator is ':12', allowed: HOST"),
  ],
)
def test_processes_that_cannot_be_are_refused(joined, change, words):
  named = {'coordinator': '10.0.0.2:1234', 'count': 4, 'index': 3}
  with pytest.raises(UserError) as e:
    processes.join(ConfigDict({**named, **change}))
  assert words in str(e.value) and not joined


def test_devices_of_others_without_a_client_are_refused(joined, monkeypatch):
  """Else each host would train on its own and all write one workdir."""
  monkeypatch.setattr(jax, 'process_count', lambda: 4)
  monkeypatch.setattr(jax.distributed, 'is_initialized', lambda: False)
  with pytest.raises(UserError, match=r'one of 4.*JAX_COORDINATOR_ADDRESS'):
    processes.join()
