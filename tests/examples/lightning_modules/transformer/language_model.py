"""The language model of Lightning's examples, `LightningTransformer`, on sentences that are made up here."""

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.demos import Transformer
from torch.utils.data import DataLoader, Dataset

WORDS = {
    "article": ["the", "a", "every", "no"],
    "noun": ["model", "trial", "network", "layer", "gradient", "metric"],
    "verb": ["trains", "prunes", "reports", "improves", "forgets"],
    "end": ["."],
}
SENTENCE = ("article", "noun", "verb", "article", "noun", "end")


class MadeUpText(Dataset):
    """Sentences of a grammar, cut into pieces of `block_size` words; a piece and the same one word further on."""

    def __init__(self, sentences: int, block_size: int, seed: int):
        self.vocabulary = [word for words in WORDS.values() for word in words]
        self.block_size = block_size
        generator = torch.Generator().manual_seed(seed)
        words = []
        for _ in range(sentences):
            for kind in SENTENCE:
                choice = int(torch.randint(len(WORDS[kind]), (1,), generator=generator))
                words.append(self.vocabulary.index(WORDS[kind][choice]))
        self.words = torch.tensor(words)

    def __len__(self):
        return (len(self.words) - 1) // self.block_size

    def __getitem__(self, index):
        start = index * self.block_size
        return self.words[start : start + self.block_size], self.words[start + 1 : start + self.block_size + 1]


class TextDataModule(L.LightningDataModule):
    def __init__(self, batch_size: int = 16, block_size: int = 12):
        super().__init__()
        self.batch_size = batch_size
        self.train = MadeUpText(400, block_size, seed=0)
        self.val = MadeUpText(100, block_size, seed=1)

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=self.batch_size)


class LightningTransformer(L.LightningModule):
    def __init__(self, vocab_size: int = 16, width: int = 32, layers: int = 1, dropout: float = 0.1, lr: float = 0.1):
        super().__init__()
        self.save_hyperparameters()
        self.model = Transformer(
            vocab_size=vocab_size, ninp=width, nhead=2, nhid=width, nlayers=layers, dropout=dropout
        )

    def forward(self, inputs, target):
        return self.model(inputs, target)

    def training_step(self, batch, batch_idx):
        loss = self._loss(batch)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self._loss(batch), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)

    def _loss(self, batch):
        inputs, target = batch
        output = self(inputs, target)
        return F.nll_loss(output, target.view(-1))


if __name__ == "__main__":
    data = TextDataModule()
    trainer = L.Trainer(max_epochs=5)
    trainer.fit(LightningTransformer(vocab_size=len(data.train.vocabulary)), data)
