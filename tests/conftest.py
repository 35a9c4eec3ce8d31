import sys
from pathlib import Path

# Examples are plain modules beside the tests that use them.
sys.path.insert(0, str(Path(__file__).parent / "advisor"))
