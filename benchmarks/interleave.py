"""Does one core plan, tokenize and write interleaved documents fast enough that only the language model is waited for?

    python -m benchmarks.interleave [--million-words 2] [--rounds 3] [--out interleave.json]

Everything of a shard is done as in a run, from its rows to its finished Parquet file, but an engine answers at once
with speech tokens of the usual number: what is left is the work of the CPU beside a GPU. One thread. Tokens are those
of the finished documents, speech and text, text as the text-to-token tokenizer counts it. Beside it stands the obvious
way: the same texts through jieba or str.split, one call of the tokenizer a span and rows as Python dictionaries.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("RAYON_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
