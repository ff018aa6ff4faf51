"""ONNX networks on one thread, so that several processes can speak side by side."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any


@functools.cache
def open_session(path: Path) -> Any:
    """An onnxruntime session of the file, one a process."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
