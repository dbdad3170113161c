"""A user's module that learns a plane, alone or with others, and notes what each rank ends with."""

import os
import time
from pathlib import Path

import lightning
import torch
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils.data import DataLoader, TensorDataset


class Net(lightning.LightningModule):
    """Its layers are split where the strategy has a mesh of devices."""

    def __init__(self, lr: float = 0.05, step_seconds: float = 0.0, between: int = 0) -> None:
        super().__init__()
        self.lr, self.step_seconds = lr, step_seconds
        layers = [torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)]
        if between:  # gradients of more than a bucket of DDP's
            layers[2:] = [torch.nn.Linear(16, between), torch.nn.Linear(between, between), torch.nn.Linear(between, 1)]
        self.net = torch.nn.Sequential(*layers)

    def setup(self, stage: str) -> None:
        self.note("trial", os.environ.get("HINDSIGHT_TRIAL", ""))
        self.note("pid", str(os.getpid()))

    def configure_model(self) -> None:
        if self._device_mesh is not None:
            plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
            parallelize_module(self.net, self.device_mesh["tensor_parallel"], plan)

    def training_step(self, batch, batch_idx):
        time.sleep(self.step_seconds)
        return torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", torch.nn.functional.mse_loss(self.net(batch[0]), batch[1]), sync_dist=True)

    def on_validation_end(self) -> None:
        weights = [getattr(part, "to_local", lambda part=part: part)() for part in self.parameters()]
        self.note("weights", " ".join(str(float(weight.detach().double().sum())) for weight in weights))
        self.note("epoch", str(self.current_epoch))
        self.note("step", str(self.global_step))

    def on_fit_end(self) -> None:
        strategy = self.trainer.strategy
        self.note("strategy", f"{type(strategy).__name__} {getattr(strategy, '_timeout', None)}")

    def note(self, what: str, text: str) -> None:
        Path(self.trainer.default_root_dir, f"{what}-{self.global_rank}").write_text(text)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.9)}

    def train_dataloader(self):
        return DataLoader(self.plane(seed=0), batch_size=8, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.plane(seed=1), batch_size=32)

    def plane(self, *, seed: int):
        features = torch.randn(128, 8, generator=torch.Generator().manual_seed(seed))
        return TensorDataset(features, features @ torch.linspace(-1, 1, 8).reshape(8, 1))
