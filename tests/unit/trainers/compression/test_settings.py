import pytest

from trainers.compression.settings import Compression, compression_of

TAUGHT = {"distil": {"teacher": {"checkpoint": "a.ckpt", "config": {}}, "temperature": 2.0}}


def test_a_trials_parameters_win_over_the_file():
    found = compression_of({"prune": "structured", "sparsity": 0.2}, {"sparsity": 0.7, "quantize": "qat"})
    assert (found.prune, found.sparsity, found.quantize) == ("structured", 0.7, "qat")
    taught = compression_of(TAUGHT, {"distil.mixing": 0.5}).distil
    assert (taught.temperature, taught.mixing, taught.teacher.checkpoint) == (2.0, 0.5, "a.ckpt")


def test_nothing_asked_is_nothing_done():
    assert not compression_of(None, {}).changes_the_trained_model
    assert not compression_of(None, {"prune": "none", "sparsity": 0.5}).changes_the_trained_model
    assert compression_of(None, {"sparsity": 0.5}).is_pruned  # by magnitude


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"sparsity": 1.0}, r"compress.sparsity = 1 is outside \[0, 1\)"),
        ({"hash_ratio": 0.0}, r"compress.hash_ratio = 0 is outside \(0, 1\]"),
        ({"prune": "random"}, "'random' is none of none, magnitude, structured"),
        ({"quantize": "int4"}, "'int4' is none of none, int8_dynamic"),
        ({"quantize": "qat", "finetune_epochs": 0}, "finetune_epochs must be at least 1"),
        ({"schedule_steps": 0}, "compress.schedule_steps = 0"),
    ],
)
def test_what_makes_no_sense_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        Compression(**fields)


def test_unknown_parameters_are_named():
    with pytest.raises(ValueError, match=r"compress\.sparcity is no step; there are distil\.mixing"):
        compression_of(None, {"sparcity": 0.5})
    with pytest.raises(ValueError, match="names no teacher"):
        compression_of(None, {"distil.mixing": 0.5})
