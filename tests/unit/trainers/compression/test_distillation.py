import math

import lightning
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from trainers.compression.distillation import distil, distillation_loss
from trainers.compression.settings import Distillation, Teacher


def settings(**changes):
    return Distillation(teacher=Teacher(checkpoint="teacher.ckpt", config={}), **changes)


def test_the_loss_is_the_formula():
    student, teacher, temperature = torch.tensor([[1.0, 2.0, 0.5]]), torch.tensor([[3.0, 0.0, 1.0]]), 2.0
    p = [math.exp(each / temperature) for each in teacher[0].tolist()]
    q = [math.exp(each / temperature) for each in student[0].tolist()]
    p, q = [each / sum(p) for each in p], [each / sum(q) for each in q]
    divergence = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert float(distillation_loss(student, teacher, temperature)) == pytest.approx(temperature**2 * divergence)


def test_gradients_keep_their_size_when_the_temperature_grows():
    """For large T the gradient is (z_s - z_t) / N, for logits of mean 0 (Hinton et al., eq. 4, times T^2)."""
    student = torch.tensor([[1.0, -2.0, 1.0]], requires_grad=True)
    teacher = torch.tensor([[2.0, 0.0, -2.0]])
    (gradient,) = torch.autograd.grad(distillation_loss(student, teacher, 1000.0), student)
    torch.testing.assert_close(gradient, (student.detach() - teacher) / 3, rtol=0.01, atol=1e-4)


def test_one_logit_is_a_choice_of_two():
    student, teacher = torch.tensor([[0.3], [-1.0]]), torch.tensor([[2.0], [0.5]])
    both = [torch.cat([each, torch.zeros_like(each)], dim=1) for each in (student, teacher)]
    expected = distillation_loss(*both, 3.0)
    torch.testing.assert_close(distillation_loss(student, teacher, 3.0), expected)
    torch.testing.assert_close(distillation_loss(student[:, 0], teacher[:, 0], 3.0), expected)


def test_the_mean_is_over_examples_and_places():
    student, teacher = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    flat = [each.movedim(1, 2).reshape(8, 5) for each in (student, teacher)]
    torch.testing.assert_close(distillation_loss(student, teacher, 2.0), distillation_loss(*flat, 2.0))


def test_other_classes_are_refused():
    with pytest.raises(ValueError, match=r"the student gives logits of shape \(2, 3\), the teacher \(2, 4\)"):
        distillation_loss(torch.zeros(2, 3), torch.zeros(2, 4), 1.0)


class Net(lightning.LightningModule):
    def __init__(self, *, through_forward=True, as_dict=False):
        super().__init__()
        self.layer, self.through_forward, self.as_dict, self.calls = nn.Linear(4, 3), through_forward, as_dict, 0

    def forward(self, inputs):
        self.calls += 1
        return self.layer(inputs)

    def training_step(self, batch, batch_idx):
        logits = self(batch[0]) if self.through_forward else self.layer(batch[0])
        loss = cross_entropy(logits, batch[1])
        return {"loss": loss, "kept": 1} if self.as_dict else loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Recorder(lightning.Callback):
    def __init__(self):
        self.losses, self.kept = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))
        self.kept.append(outputs.get("kept"))


@pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:The number of training batches", "ignore:.*LeafSpec"
)
@pytest.mark.parametrize("changes", [{}, {"through_forward": False}, {"as_dict": True}])
def test_the_steps_loss_mixes_its_own_with_the_lesson(changes, tmp_path):
    torch.manual_seed(1)
    inputs, labels = torch.randn(8, 4), torch.randint(3, (8,))
    student, teacher, recorder = Net(**changes), nn.Linear(4, 3), Recorder()
    logits, taught = student.layer(inputs).detach(), teacher(inputs).detach()
    expected = 0.3 * cross_entropy(logits, labels) + 0.7 * distillation_loss(logits, taught, 5.0)
    names = set(student.state_dict())
    distil(student, teacher, settings(temperature=5.0, mixing=0.7))
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[recorder],
    )
    trainer.fit(student, DataLoader(TensorDataset(inputs, labels), batch_size=8))
    assert recorder.losses == pytest.approx([float(expected)])
    assert recorder.kept == ([1] if changes.get("as_dict") else [None])
    assert float(trainer.callback_metrics["distillation_loss"]) == pytest.approx(
        float(distillation_loss(logits, taught, 5.0))
    )
    assert student.calls == 1  # not twice
    assert set(student.state_dict()) == names  # the teacher is no part of the student


def test_a_student_without_forward_is_refused():
    class Mute(lightning.LightningModule):
        pass

    with pytest.raises(ValueError, match="Mute has no `forward`"):
        distil(Mute(), nn.Linear(1, 1), settings())
