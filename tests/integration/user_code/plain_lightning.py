"""Three runs as anybody trains with Lightning: plain_lightning.py mlflow|csv|tensorboard PLACE."""

import logging
import sys
import warnings

warnings.filterwarnings("ignore")
import torch  # noqa: E402
from lightning import LightningModule, Trainer  # noqa: E402
from lightning.pytorch.callbacks import ModelCheckpoint  # noqa: E402
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

logging.getLogger("lightning").setLevel(logging.ERROR)


class Net(LightningModule):
    def __init__(self, lr: float, optimizer: str, widths: tuple[int, ...] = (4, 4)) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(4, 1)

    def loss(self, batch):
        return torch.nn.functional.mse_loss(self.layer(batch[0]), batch[1])

    def training_step(self, batch, _):
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, _):
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self):
        kind = torch.optim.SGD if self.hparams.optimizer == "sgd" else torch.optim.Adam
        return kind(self.parameters(), lr=self.hparams.lr)


def logger_at(kind: str, place: str):
    if kind == "mlflow":
        return MLFlowLogger(experiment_name="plain", tracking_uri=place)
    return (CSVLogger if kind == "csv" else TensorBoardLogger)(place, name="net")


def main(kind: str, place: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(64, 4)
    data = DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=16)
    for lr, optimizer in ((1e-3, "adam"), (1e-1, "sgd"), (1e-2, "sgd")):
        trainer = Trainer(
            max_epochs=3,
            accelerator="cpu",
            logger=logger_at(kind, place),
            callbacks=[ModelCheckpoint(monitor="val_loss", filename="{epoch}-{val_loss:.3f}")],
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=2,
        )
        trainer.fit(Net(lr, optimizer), data, data)


if __name__ == "__main__":
    main(*sys.argv[1:])
