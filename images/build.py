#!/usr/bin/env python3
"""Build what images/catalog.yml says into build/store; `--help` says how."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from builder.main import main

if __name__ == "__main__":
    sys.exit(main())
