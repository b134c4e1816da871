import lightning
import pytest
import torch

from datamodules.chat import ChatDataModule
from emu2_lit.errors import UserError
from emu2_lit.settings import SourceSettings


class Recorder(lightning.LightningModule):
    """Learns nothing; notes what it is given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.trained, self.validated = [], []

    def training_step(self, batch, _):
        self.trained.append((batch["window"]["step"], batch["window"]["micro_batch"], tuple(batch["sample_ids"])))
        return self.weight.sum() * 0 + batch["labels"].ne(-100).sum()

    def validation_step(self, batch, _):
        self.validated += [id for id in batch["sample_ids"] if id]

    def configure_optimizers(self):
        return torch.optim.SGD([self.weight], lr=0.1)


@pytest.fixture
def run(processor, chat_file, tmp_path):
    """Fits a Recorder: returns (recorder, trainer, data)."""

    def fit(max_steps=-1, accumulate=2, checkpoint=None, val=None, max_epochs=-1, validate=(), **options):
        options.setdefault("global_batch_size", 4)
        options.setdefault("micro_batch_size", 4 // accumulate)
        data = ChatDataModule(
            options.pop("sources", None) or [SourceSettings(chat_file("train.json", 10), name="train")],
            processor,
            validation=[SourceSettings(path) for path in validate],
            seed=options.pop("seed", 5),
            **options,
        )
        trainer = lightning.Trainer(
            max_steps=max_steps,
            max_epochs=max_epochs,
            accumulate_grad_batches=accumulate,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            val_check_interval=val,
            check_val_every_n_epoch=None if val else 1,
            num_sanity_val_steps=0,
            default_root_dir=tmp_path,
        )
        recorder = Recorder()
        trainer.fit(recorder, data, ckpt_path=checkpoint, weights_only=False)
        return recorder, trainer, data

    return fit


def test_one_stream_runs_over_epoch_borders(run):
    recorder, trainer, data = run(max_steps=5)
    ids = [id for _, _, batch in recorder.trained for id in batch]
    assert trainer.global_step == 5 and len(ids) == 20
    assert sorted(ids[:10]) == sorted(ids[10:]) == sorted(f"s{i}" for i in range(10))
    assert ids[:10] != ids[10:]
    assert data.state_dict()["consumed"] == [20]


def test_every_resume_continues_the_stream_exactly(run, tmp_path):
    whole, _, _ = run(max_steps=8)
    trained = []
    for number, steps in enumerate((3, 4, 8)):
        checkpoint = tmp_path / f"{number - 1}.ckpt" if number else None
        recorder, trainer, _ = run(max_steps=steps, checkpoint=checkpoint)
        trainer.save_checkpoint(tmp_path / f"{number}.ckpt")
        trained += recorder.trained
    assert trained == whole.trained


def test_resume_works_with_another_split_and_other_workers(run, tmp_path):
    whole, _, _ = run(max_steps=4)
    first, trainer, _ = run(max_steps=2)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    rest, _, data = run(max_steps=4, accumulate=1, checkpoint=tmp_path / "a.ckpt", workers=2)

    def samples(recorders):
        return [id for recorder in recorders for _, _, batch in recorder.trained for id in batch]

    assert samples([first, rest]) == samples([whole])
    assert data.consumed == 16


def test_epochs_are_counted_in_whole_steps(run):
    recorder, trainer, _ = run(max_epochs=2)
    assert trainer.global_step == 4
    assert [step for step, _, _ in recorder.trained] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_resume_with_other_data_or_seed_is_refused(run, tmp_path, chat_file):
    _, trainer, _ = run(max_steps=1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=r"made with other data \(seed: 5, now 6\)"):
        run(max_steps=2, checkpoint=tmp_path / "a.ckpt", seed=6)
    other = [SourceSettings(chat_file("train.json", 11), name="train")]
    with pytest.raises(UserError, match="fingerprints"):
        run(max_steps=2, checkpoint=tmp_path / "a.ckpt", sources=other)


def test_sizes_that_do_not_multiply_are_refused(run):
    with pytest.raises(UserError, match=r"global_batch_size is 8, but micro_batch_size 2 x accumulate_grad_batches 2"):
        run(max_steps=1, global_batch_size=8, micro_batch_size=2)


def test_batch_size_follows_where_none_is_given(run):
    recorder, _, data = run(max_steps=1, global_batch_size=None, micro_batch_size=3)
    assert data.consumed == 6 and len(recorder.trained) == 2


def test_validation_sees_each_sample_once_in_order(run, chat_file):
    path = chat_file("val.json", 7, broken={2})
    recorder, _, data = run(max_steps=1, val=2, validate=[path], micro_batch_size=2)
    assert recorder.validated == [f"s{i}" for i in range(7)]
    assert [sample.id for sample in data.validation_samples()] == recorder.validated


def test_validation_limit_is_a_fixed_choice(processor, chat_file):
    path = chat_file("val.json", 30)

    def ids(seed):
        settings = [SourceSettings(path)]
        data = ChatDataModule(settings, processor, validation=settings, seed=seed, validation_limit=8)
        return [sample.id for sample in data.validation_samples()]

    assert ids(1) == ids(2) and len(set(ids(1))) == 8
    assert ids(1) != [f"s{i}" for i in range(8)]


def test_mixture_follows_the_weights(run, chat_file):
    sources = [
        SourceSettings(chat_file("a.json", 5, answer="seven"), name="a", weight=0.75),
        SourceSettings(chat_file("b.json", 5, answer="one"), name="b", weight=0.25),
    ]
    _, _, data = run(max_steps=5, sources=sources)
    drawn = [data.order(position)[0] for position in range(20)]
    assert drawn.count(0) == 15


@pytest.mark.parametrize(("sources", "message"), [([], "data.sources is empty"), (["gone.json"], "not found: gone")])
def test_missing_data_are_user_errors(processor, sources, message):
    data = ChatDataModule([SourceSettings(path) for path in sources], processor)
    with pytest.raises(UserError, match=message):
        data.setup("fit")
