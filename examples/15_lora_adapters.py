"""Four ways to train LoRA adapters of a BERT on eight clients: what each sends, and what it learns.

    python examples/15_lora_adapters.py [TRAIN.csv]

Needs `pip install 'fedlama[peft]'`; nothing is downloaded. A file in the form of AG News ("class","title","text") takes
the place of sentences that are made up: its first 512 rows, of which it must have 128. The loss is the clients' own,
under FedSA-LoRA each with its own matrices B.
"""

import csv
import random
import sys
import zlib

import torch
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification

import fedlama as fl

TOPICS = [
    ["election", "minister", "border", "treaty", "army"],
    ["match", "goal", "coach", "season", "team"],
    ["market", "shares", "profit", "bank", "trade"],
    ["software", "planet", "chip", "web", "research"],
]
draw = random.Random(0)
if len(sys.argv) > 1:
    with open(sys.argv[1], encoding="utf-8") as file:
        rows = [(int(label) - 1, " ".join(text)) for label, *text in csv.reader(file) if label.isdigit()][:512]
else:
    common = ["the", "a", "of", "in", "on", "after", "says", "new", "more", "today"]
    rows = [(n % 4, " ".join(draw.choices(common, k=9) + draw.choices(TOPICS[n % 4], k=3))) for n in range(512)]
size = len(rows) // 16  # rows in each of sixteen runs of texts of one class
if size < 8:
    sys.exit(f"{sys.argv[1]} has {len(rows)} rows with a class, expected 128 or more; give a longer file")
rows = rows[: 16 * size]
ids = torch.zeros(len(rows), 24, dtype=torch.int64)  # (texts, words)
for row, (_, text) in enumerate(rows):
    words = [1, *(2 + zlib.crc32(word.encode()) % 998 for word in text.lower().split()[:23])]
    ids[row, : len(words)] = torch.tensor(words)
labels = torch.tensor([label for label, _ in rows])
order = (labels * len(rows) + torch.arange(len(rows))).argsort().view(16, size)
texts = [torch.cat([order[n], order[(n + 5) % 16]]) for n in range(0, 16, 2)]  # each client knows two classes
batches = [{"input_ids": ids[n], "attention_mask": (ids[n] > 0).long(), "labels": labels[n]} for n in texts]
clients = [fl.ClientData(x=batch, y=None, batch_size=16) for batch in batches]

torch.manual_seed(0)
sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
bert = BertForSequenceClassification(BertConfig(vocab_size=1000, num_labels=4, max_position_embeddings=32, **sizes))
model = get_peft_model(bert, LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"]))

fedavg, fedlama = fl.FedAvg(4), fl.FedLAMA(4, increase_factor=2)
methods = {"FedIT": ("fedit", fedavg), "FFA-LoRA": ("ffa", fedavg), "FedSA-LoRA": ("fedsa", fedavg)}
results = {}
for name, (method, strategy) in {**methods, "FedLAMA": ("fedit", fedlama)}.items():
    layers, solver = fl.lora_layers(model, method), fl.AdamW(0.02)
    federation = fl.Federation(
        model, clients, strategy, 96, solver, layers=layers, task=fl.HuggingFace(), engine="workers"
    )
    results[name] = result = federation.run()
    sent = (result.ledger.total_bytes("up") + result.ledger.total_bytes("down")) / 1e6
    print(f"{name:<10} {sent:.2f} MB, training loss {result.rounds[0].loss:.3f} -> {result.rounds[-1].loss:.3f}")
fl.save_adapter(model, results["FedIT"].model, "adapter")  # for PeftModel.from_pretrained(bert, "adapter")
