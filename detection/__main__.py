"""``python -m detection``."""

from detection.cli import main

main()
