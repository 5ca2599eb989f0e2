"""Makes the driver and the oracle of this folder importable by name (tests are no package)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
