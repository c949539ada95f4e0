"""The listing of known networks, with milliseconds where a table has them."""

from spnas_jax.config.workdir import Workdir
from spnas_jax.networks import zoo
from spnas_jax.stages import zoo as zoo_stage


def test_rows_have_the_pixel_1_times_of_the_networks_that_were_measured(
  tmp_path, capsys
):
  """MnasNet-B1 and the paper's network are in the published table's space."""
  rows = {row['name']: row for row in zoo_stage.run(None, Workdir(tmp_path))}
  assert set(rows) == {*zoo.names(), 'chamnet_b'}
  times = {
    k: round(r['pixel1_ms'], 2) for k, r in rows.items() if r['pixel1_ms']
  }
  assert times == {'mnasnet_b1': 75.88, 'single_path_nas': 80.44}
  assert Workdir(tmp_path).results()['zoo'] == list(rows.values())
  assert '80.44' in capsys.readouterr().out
