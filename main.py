"""Entry point of a checkout; an installed package has the command `spnas`.

python main.py --stage=all --config=configs/digits.py --workdir=runs/digits
"""

from spnas_jax.cli import main

if __name__ == '__main__':
  main()
