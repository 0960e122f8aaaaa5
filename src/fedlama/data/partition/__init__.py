"""Ways to deal the training rows to clients: one signature, one file each.

Every function returns a list with one int64 array of row numbers per client. No client is empty, no row is dealt
twice, and every row is dealt (`natural` may be told to leave rows out; `describe` counts them).
"""

from __future__ import annotations

from fedlama.data.partition.describe import Description, describe
from fedlama.data.partition.dirichlet import dirichlet
from fedlama.data.partition.iid import iid
from fedlama.data.partition.natural import natural
from fedlama.data.partition.shards import shards

__all__ = ["Description", "describe", "dirichlet", "iid", "natural", "shards"]
