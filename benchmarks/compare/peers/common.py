"""What the peers' scripts share: arguments, the token rows they are given, a callback that ends steps."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from meter import METER


def arguments() -> argparse.Namespace:
    """Of every peer: what to do, in one JSON file, and where the measurement goes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--job", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    job = json.loads(given.job.read_text(encoding="utf-8"))
    os.environ.update(job.get("environment", {}))
    return argparse.Namespace(**job, json=given.json)


def rows(job: argparse.Namespace) -> Any:
    """The task's rows of token ids as a data set, in the order of the batches."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    return Dataset.from_list(json.loads(Path(job.rows).read_text(encoding="utf-8")))


def trainer_options(job: argparse.Namespace) -> dict[str, Any]:
    """Arguments of every TRL trainer that make its work equal to ours."""
    return {
        "output_dir": job.output,
        "per_device_train_batch_size": job.batch_size,
        "learning_rate": job.lr,
        "adam_beta1": job.betas[0],
        "adam_beta2": job.betas[1],
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "seed": 0,
        "use_cpu": True,
        "disable_tqdm": True,
        **job.options,
    }


def watch(backbone: Any) -> None:
    """Time forward passes; from here on no module is loaded any more."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    METER.clock.wrap_backbone(backbone)
    METER.loaded()


def steps() -> Any:
    """A callback for transformers' trainers: a step ends with its row of the log."""
    from transformers import TrainerCallback

    class Steps(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            METER.begin()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **__: Any) -> None:
            if logs and "train_runtime" not in logs:
                METER.step({k: float(v) for k, v in logs.items() if _is_number(v)})

    return Steps()


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def train_on_rows(
    job: argparse.Namespace, trainer_class: Any, config_class: Any, model: Any, tokenizer: Any, **options: Any
) -> None:
    """Train on the task's rows in their order; write what was measured, with the tokens of each batch."""
    trainer = trainer_class(
        model=model,
        args=config_class(max_steps=job.steps, train_sampling_strategy="sequential", **options, **trainer_options(job)),
        train_dataset=rows(job),
        processing_class=tokenizer,
        callbacks=[steps()],
    )
    tokens = count_tokens(trainer, tokenizer.pad_token_id)
    trainer.train()
    METER.write(job.json, tokens=tokens)


def count_tokens(trainer: Any, pad_id: int) -> list[int]:
    """Tokens of each batch that the trainer is fed, padding left out; filled while it runs."""
    found: list[int] = []
    plain = trainer.training_step

    def step(model: Any, inputs: Any, *more: Any, **options: Any) -> Any:
        mask = inputs.get("attention_mask")
        found.append(int(mask.sum()) if mask is not None else int((inputs["input_ids"] != pad_id).sum()))
        return plain(model, inputs, *more, **options)

    trainer.training_step = step
    return found
