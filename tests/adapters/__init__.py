"""LoRA adapters: which layers they are, what is sent, and the files that PEFT loads."""
