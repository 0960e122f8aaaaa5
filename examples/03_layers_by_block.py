"""Layers by block: give each block of a network one interval, and keep the head on the clients most of the time.

    python examples/03_layers_by_block.py

A layer is what is synchronised as one. By default every parameter tensor is a layer; `by_module` makes a
layer of each module, and `by_mapping` groups parameters by a function of their names.
"""

import torch
from torch import nn

import fedlama as fl

torch.manual_seed(0)
model = nn.Sequential()
for block, (inputs, outputs) in enumerate([(64, 48), (48, 32), (32, 16)]):
    model.add_module(f"block{block}", nn.Sequential(nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.ReLU()))
model.add_module("head", nn.Linear(16, 10))

layers = fl.by_mapping(model, lambda parameter: parameter.split(".")[0])  # "block1.0.weight" -> "block1"
for layer in layers:
    print(f"{layer.name}: {layer.parameters} parameters in {len(layer.tensors)} tensors")

digits = fl.data.digits.load()
x = digits.train_x.flatten(1) / 255  # (samples, pixels)
rows = fl.data.partition.iid(digits.train_y.numpy(), clients=8, seed=0)
result = fl.Federation(
    model=model,
    clients=[fl.ClientData(x[mine], digits.train_y[mine], batch_size=16) for mine in rows],
    # Intervals in rounds of 4 local steps, by layer name or pattern; the first entry that matches counts.
    strategy=fl.FixedIntervals(base_interval=4, intervals={"head": 6, "block*": 2}),
    layers=layers,
    local_steps=96,
    solver=fl.SGD(learning_rate=0.1, momentum=0.9),
    test_set=fl.TestSet(digits.test_x.flatten(1) / 255, digits.test_y),
).run()

print("synchronisations:", result.ledger.synchronisations())
print(f"accuracy {result.score.accuracy:.1%}" if result.score else "not evaluated")
