"""``python -m glare``."""

import sys

from glare.cli import main

sys.exit(main())
