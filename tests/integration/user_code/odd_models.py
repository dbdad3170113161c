"""A user's module, whose models misbehave on request."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

print("a user's module prints while it is imported")


class Odd(lightning.LightningModule):
    """Does well, apart from its `habit`. Its loss in epoch `k` is `losses[k]`."""

    def __init__(self, habit: str = "none", losses: tuple[float, ...] = (3.0, 1.0, 2.0)) -> None:
        super().__init__()
        self.habit, self.losses = habit, losses
        self.layer = torch.nn.Linear(2, 1)
        getattr(self, f"construct_{habit}", lambda: None)()

    def setup(self, stage: str) -> None:
        Path(self.trainer.default_root_dir, f"pid-{self.global_rank}").write_text(str(os.getpid()))

    def training_step(self, batch, batch_idx):
        getattr(self, f"train_{self.habit}", lambda: None)()
        loss = self.layer(batch[0]).pow(2).mean()
        if self.habit == "logs_in_training_only":
            self.log("val_loss", self.loss_now(), on_step=False, on_epoch=True)
        self.log("train_loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def validation_step(self, batch, batch_idx):
        match self.habit:
            case "logs_nothing_of_use" | "logs_in_training_only":
                self.log("val_los", 1.0)
            case "logs_by_rank":
                self.log("val_loss", self.loss_now() + 10 * self.global_rank)
            case _:
                self.log("val_loss", self.loss_now())

    def on_train_epoch_end(self) -> None:
        if self.habit == "logs_last":
            self.log("late_loss", self.loss_now())

    def on_save_checkpoint(self, checkpoint):
        if self.habit == "keeps_code":
            checkpoint["rule"] = lambda: None

    def loss_now(self) -> float:
        return float(self.losses[self.current_epoch % len(self.losses)])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)

    def train_dataloader(self):
        return self.loader()

    def val_dataloader(self):
        return self.loader()

    def loader(self):
        return DataLoader(TensorDataset(torch.ones(8, 2)), batch_size=4)

    # Habits.

    def construct_raises_early(self):
        raise RuntimeError("no such width")

    def train_raises(self):
        print("about to fail")
        raise ValueError("the third step went wrong\nin two lines")

    def train_exits(self):
        sys.exit(3)

    def train_ends_at_once(self):
        os._exit(0)

    def train_crashes(self):
        ctypes.string_at(0)

    def train_runs_out_of_memory(self):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    def train_hangs(self):
        self.start_helpers()
        while True:
            time.sleep(1)

    def train_ignores_signals(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self.train_hangs()

    def train_leaves_helpers(self):
        if self.trainer.global_step == 0:
            self.start_helpers()

    def start_helpers(self):
        """One in the trial's process group, one that has left it."""
        for name, leaves in (("helper", False), ("daemon", True)):
            helper = subprocess.Popen(["sleep", "300"], start_new_session=leaves)
            Path(self.trainer.default_root_dir, f"pid-{name}").write_text(str(helper.pid))

    def train_rank_1_hangs(self):
        while self.global_rank == 1:
            time.sleep(1)

    def train_rank_1_raises(self):
        if self.global_rank == 1:
            raise ValueError("only here")


class Data(lightning.LightningDataModule):
    """Not a model."""
