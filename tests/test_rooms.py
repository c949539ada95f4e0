"""Imports between rooms point down only, and nothing runs in a circle."""

import ast
import functools
import gc
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
# From the ground up, as docs/architecture.md draws it.
FLOORS = (
  'core',
  'networks',
  'data',
  'models',
  'config',
  'export',
  'latency',
  'training',
  'search',
  'report',
  'stages',
  'startup',
  'stage_runs',
  'cli',
)


@functools.cache
def imports() -> dict[str, set[str]]:
  """Module -> modules of the package that it imports, lazily or not."""
  paths = {
    '.'.join(path.relative_to(ROOT).with_suffix('').parts): path
    for path in (ROOT / 'spnas_jax').rglob('*.py')
  }
  # Python 3.11 fails where a finaliser runs while it builds a syntax tree.
  gc.collect()
  found: dict[str, set[str]] = {}
  for module, path in paths.items():
    found[module] = set()
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.ImportFrom) and node.level == 0:
        for alias in node.names:
          inner = f'{node.module}.{alias.name}'
          name = inner if inner in paths else str(node.module)
          if name.split('.')[0] == 'spnas_jax':
            found[module].add(name)
      elif isinstance(node, ast.Import):
        found[module] |= {a.name for a in node.names if 'spnas_jax' in a.name}
  return found


def floor(module: str) -> int:
  return FLOORS.index(module.split('.')[1])


def test_every_room_has_a_floor_and_a_purpose():
  rooms = {m.split('.')[1] for m in imports() if m.count('.') > 0}
  assert rooms - {'__init__'} == set(FLOORS)
  for room in FLOORS[:11]:
    text = (ROOT / 'spnas_jax' / room / '__init__.py').read_text()
    assert ast.get_docstring(ast.parse(text)), room


def test_imports_point_down():
  """A module may use its own room and those below, nothing above."""
  up = [
    f'{module} imports {other}'
    for module, others in imports().items()
    for other in others
    if module.count('.') > 0
    and not module.endswith('__init__')
    and other.count('.') > 0
    and floor(other) > floor(module)
  ]
  assert not up


def test_no_circles():
  """Nor among the modules of one room, lazily or not."""
  done: set[str] = set()

  def visit(module: str, path: tuple[str, ...]) -> None:
    assert module not in path, ' -> '.join((*path, module))
    if module not in done:
      for other in sorted(imports().get(module, ())):
        visit(other, (*path, module))
      done.add(module)

  for module in imports():
    visit(module, ())


def test_no_import_is_for_types_only():
  """`TYPE_CHECKING` hides an import that points up."""
  for path in (ROOT / 'spnas_jax').rglob('*.py'):
    assert 'TYPE_CHECKING' not in path.read_text(), path
