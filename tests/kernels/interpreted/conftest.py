"""For Triton's interpreter, which is chosen when kernels are imported: `test_interpreter.py` starts these tests."""

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
