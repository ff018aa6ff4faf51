"""One page to read and hear: every figure with its interval and what it is measured against, every sound to play.

Reads   metrics.json and curves.json of every stage, data/evaluate/<model>/scores and samples
Writes  data/report/page/report.html: one file that needs nothing from the network
Method  table.py: the main figures, also as Markdown (python -m components.report.table)
        curves.py, charts.py: figures as inline SVG that follow the reader's light or dark theme
        sounds.py, spectrogram.py: players and spectrograms of the samples that evaluation kept
Source  none; the figures are those of its experiments (Zeng et al. 2024) in miniature
"""
