"""Ways to split the training rows over clients, one file each.

Every function returns a list with one int64 array of row numbers per client. No client is empty, no row belongs to two
clients, and every row belongs to one (`natural` can leave rows out; `describe` counts them).
"""

from __future__ import annotations

from fedlama.data.partition.describe import Description, describe
from fedlama.data.partition.dirichlet import dirichlet
from fedlama.data.partition.iid import iid
from fedlama.data.partition.natural import natural
from fedlama.data.partition.niid_bench import niid_dirichlet, niid_labels
from fedlama.data.partition.shards import shards

__all__ = ["Description", "describe", "dirichlet", "iid", "natural", "niid_dirichlet", "niid_labels", "shards"]
