"""Tests of fedlama.data: tiny hand-made files, literal numbers, and properties of partitions."""
