"""Which pictures are for training, validation and test, where nobody said.

A picture's place is a number in [0, 1) that its content and a seed give: those
below the test fraction are for test, those above it and below the sum of both
fractions for validation, the others for training. So equal files are in the
same split, and files that are added, removed, renamed or moved to another class
leave the others where they are.

Chance may leave a small class without a picture in a split. Then the one whose
number is nearest to the split's interval moves there. Only what moved so can be
in another split once files are added, and what moves then because a class has
become large enough for one more split.
"""

from __future__ import annotations

import collections
import hashlib

# A class with too few pictures for all has one for training first, then for
# test: what is not trained on is not learnt, what is not scored is not known.
PRIORITY = ('train', 'test', 'validation')


def place(digest: str, seed: int) -> float:
  """The number in [0, 1) of a content; `digest` is its hash."""
  mixed = hashlib.sha256(f'{seed}:{digest}'.encode()).digest()
  return int.from_bytes(mixed[:8], 'big') / 2**64


def assign(
  pictures: list[tuple[str, str]], fractions: dict[str, float], seed: int
) -> list[str]:
  """Chooses a split for each of some pictures.

  Every class with as many contents of its own as there are splits has at least
  one in each. A content that several classes have is of none of them: its split
  is what its number says.

  Args:
    pictures: (class, hash of the content) of each.
    fractions: of 'validation' and 'test'; one that is missing or 0 is not
      wanted. Their sum is below 1.
    seed: any integer; another one splits another way.

  Returns:
    'train', 'validation' or 'test' of each picture.
  """
  test = fractions.get('test', 0.0)
  both = test + fractions.get('validation', 0.0)
  intervals = {'test': (0.0, test), 'validation': (test, both)}
  intervals['train'] = (both, 1.0)
  wanted = [s for s in PRIORITY if intervals[s][0] < intervals[s][1]]
  classes = collections.defaultdict(set)
  for label, digest in pictures:
    classes[digest].add(label)
  chosen: dict[str, str] = {}
  own: dict[str, dict[str, list[str]]] = {}
  for digest, labels in classes.items():
    number = place(digest, seed)
    split = next(
      s for s in wanted if intervals[s][0] <= number < intervals[s][1]
    )
    chosen[digest] = split
    if len(labels) == 1:
      (label,) = labels
      members = own.setdefault(label, {s: [] for s in wanted})
      members[split].append(digest)
  for members in own.values():
    chosen.update(_filled(members, intervals, seed))
  return [chosen[digest] for _, digest in pictures]


def _filled(
  members: dict[str, list[str]],
  intervals: dict[str, tuple[float, float]],
  seed: int,
) -> dict[str, str]:
  """Moves contents of one class to splits that have none of it.

  Args:
    members: split -> contents, in order of priority; changed.
    intervals: split -> where its numbers lie.
    seed: of the numbers.

  Returns:
    New split of what was moved.
  """
  moved: dict[str, str] = {}

  def distance(digest: str, split: str) -> float:
    low, high = intervals[split]
    number = place(digest, seed)
    return max(low - number, number - high)

  order = list(members)
  for i, split in enumerate(order):
    if members[split]:
      continue
    # Those that can spare one, and those that matter less.
    donors = [
      s for j, s in enumerate(order) if len(members[s]) > (0 if j > i else 1)
    ]
    if not donors:
      continue
    donor = max(donors, key=lambda s: len(members[s]))
    digest = min(members[donor], key=lambda d: distance(d, split))
    members[donor].remove(digest)
    members[split].append(digest)
    moved[digest] = split
  return moved
