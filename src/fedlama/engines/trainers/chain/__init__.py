"""Hand-written training steps for chains of usual layers, many clients per kernel.

Autograd, small kernels and Python take most of the time of a small model. A model that is a chain of dense layers,
convolutions, ReLU, max pooling and dropout under cross-entropy is translated once to operations that know their own
backward pass on stacked clients, put gradients where the solver wants them, and allocate little.
"""

from fedlama.engines.trainers.chain.trainer import ChainTrainer
from fedlama.engines.trainers.chain.translate import chain_for, one_input, translate

__all__ = ["ChainTrainer", "chain_for", "one_input", "translate"]
