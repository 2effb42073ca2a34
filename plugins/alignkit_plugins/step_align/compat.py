"""Options that the reference implementations disagree on, under the name of each.

Read from openai/lm-human-preferences (train_policy.py at 1ab856d), vwxyzjn/summarize_from_feedback_details (ppo.py at
3f14a17) and verl (core_algos.py, ppo_trainer.yaml of 0.10). Learning rates, batch sizes and targets are not among
them. docs/ppo.md has a line for each difference.
"""

from collections.abc import Mapping
from typing import Any

# Of the step itself, of the advantage estimator and of the optimizer stage, the last two by their component's name.
COMPAT: dict[str, dict[str, Any]] = {
    "openai": {
        "kl": {"estimator": "k1", "placement": "reward", "target_unit": "completion"},
        "normalise_scores": {"mode": "reference", "samples": 256},
        "missing_stop": {"mode": "replace", "value": -1.0},
        "score_position": "last_token",
        "whiten_rewards": True,
        "whiten_variance": "biased",
        "critic": "shared",
        "advantage": {"gae": {"lam": 0.95, "whiten": True, "whiten_variance": "biased"}},
        "optimizer_stage": {"ppo": {"epochs": 4, "minibatches": 1, "value_coef": 0.1, "value_clip_range": 0.2}},
    },
    "n_plus": {
        "kl": {"estimator": "k1", "placement": "reward", "target_unit": "completion"},
        "normalise_scores": {"mode": "reference_mean", "samples": 256},
        "missing_stop": {"mode": "replace", "value": -1.0},
        "score_position": "after_stop",
        "whiten_rewards": False,
        "critic": "separate",
        "advantage": {"gae": {"lam": 0.95, "whiten": True, "whiten_variance": "biased"}},
        "optimizer_stage": {
            "ppo": {"epochs": 4, "minibatches": 1, "value_coef": 0.1, "value_clip_range": 0.2, "eps": 1e-5}
        },
    },
    "verl": {
        "kl": {"estimator": "k1", "placement": "reward", "target_unit": "token"},
        "score_position": "last_token",
        "whiten_rewards": False,
        "critic": "separate",
        "advantage": {"gae": {"lam": 1.0, "whiten": True, "whiten_variance": "unbiased"}},
        "optimizer_stage": {
            "ppo": {
                "epochs": 1,
                "dual_clip": 3.0,
                "loss_aggregation": "token_mean",
                "value_clip_range": 0.5,
                "eps": 1e-8,
            }
        },
    },
}
DEFAULT_COMPONENT = {"advantage": "gae", "optimizer_stage": "ppo"}


def with_compat(options: Mapping[str, Any]) -> dict[str, Any]:
    """The step's raw options with those of `options["compat"]` filled in where none was given.

    Components other than the ones named in `COMPAT` keep their own defaults.
    """
    filled = dict(options)
    for key, value in COMPAT.get(str(options.get("compat")), {}).items():
        if key in DEFAULT_COMPONENT:
            given = _as_dict(filled.get(key, DEFAULT_COMPONENT[key]))
            filled[key] = {**value.get(given.get("name"), {}), **given}
        elif key == "critic" and filled.get("critic_init") is not None:
            continue  # a critic that starts from a reward model is one of its own
        elif key == "kl" and isinstance(filled.get(key, {}), dict):
            filled[key] = {**value, **filled.get(key, {})}
        else:  # a penalty or normalisation is taken whole: its options mean nothing apart
            filled.setdefault(key, value)
    return filled


def _as_dict(component: Any) -> dict[str, Any]:
    """`{name: …, options}` of a component in any of its spellings."""
    if isinstance(component, str):
        return {"name": component}
    return dict(component) if isinstance(component, Mapping) else dict(component.model_dump())
