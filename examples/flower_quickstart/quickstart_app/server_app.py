"""The ServerApp of Flower's PyTorch quickstart; FedLAMA changes two lines, an import and the strategy."""

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp

from fedlama.flower import FedLAMAStrategy
from quickstart_app.task import Net

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation."""
    fraction_evaluate, out = context.run_config["fraction-evaluate"], context.run_config["out"]
    torch.manual_seed(0)
    global_model = Net()
    arrays = ArrayRecord(global_model.state_dict())
    strategy = FedLAMAStrategy(model=global_model, out=out, fraction_evaluate=fraction_evaluate)
    result = strategy.start(
        grid=grid,
        initial_arrays=arrays,
        train_config=ConfigRecord({"lr": context.run_config["learning-rate"]}),
        num_rounds=context.run_config["num-server-rounds"],
    )
    print(f"trained for {len(result.train_metrics_clientapp)} rounds; accuracies {result.evaluate_metrics_clientapp}")
