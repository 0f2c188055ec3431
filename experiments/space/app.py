"""The page of ``glare demo`` as a Space of Hugging Face's."""

import sys

from glare.cli import main

sys.exit(main(["demo", "--host", "0.0.0.0"]))
