"""`python -m labcluster.cli` is labctl."""

import sys

from labcluster.cli.main import main

sys.exit(main())
