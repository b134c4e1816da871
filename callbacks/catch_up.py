"""The validation that a stopped run still owes."""

from lightning import Callback, LightningModule, Trainer


class CatchUpValidation(Callback):
    """Validates when a run goes on from a step at which a validation is due.

    The checkpoint of such a step is written before its validation; a run that was stopped or killed in between has
    none, and Lightning counts it as done. Put it behind all callbacks that set themselves up in `on_train_start`.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        every, passed = trainer.val_check_batch, trainer.global_step * trainer.accumulate_grad_batches
        if not (passed and isinstance(every, int) and passed % every == 0):
            return
        validation = trainer.fit_loop.epoch_loop.val_loop
        validation.restarting = False
        trainer.validating = True
        validation.run()
        trainer.training = True
