"""python main.py fit -c config.yaml"""

from autoencoder import DigitsDataModule, LitAutoEncoder
from lightning.pytorch.cli import LightningCLI


def cli_main():
    LightningCLI(LitAutoEncoder, DigitsDataModule)


if __name__ == "__main__":
    cli_main()
