"""The estimators and optimizer stages that are measured, as recipe options.

`unbiased` ones have the KL in the reward, no division by a deviation and no length normalisation: their stationary
point is the optimum. The others are settings as published, to show what they aim at instead.
"""

from typing import Any, NamedTuple

from world import LENGTH


class Variant(NamedTuple):
    """One way to fill the slots `advantage` and `optimizer_stage`, and where the KL goes.

    `samples` multiplies the size of a batch, for an estimator whose variance asks for it.
    """

    name: str
    unbiased: bool
    advantage: dict[str, Any]
    optimizer: dict[str, Any]
    kl: dict[str, Any]
    samples: int = 1


SUM = {"loss_aggregation": "sequence_sum"}
FREE = {"whiten": False}
IN_REWARD: dict[str, Any] = {}


def stage(name: str, **options: Any) -> dict[str, Any]:
    """An optimizer stage with one pass over each batch. Gradients get small at the end: so must Adam's epsilon be.

    `reinforce` has no ratio that would correct for an older policy, so it takes each batch whole (run.py makes them
    smaller for it, and more).
    """
    return {"name": name, "epochs": 1, "minibatches": 1 if name == "reinforce" else 4, "eps": 1e-8, **options}


VARIANTS = (
    Variant("gae + ppo", True, {"name": "gae", "lam": 1.0, **FREE}, stage("ppo", critic_lr=1e-2, **SUM), IN_REWARD),
    Variant("rloo + ppo", True, {"name": "rloo"}, stage("ppo", **SUM), IN_REWARD),
    Variant(
        "Dr. GRPO + ppo",
        True,
        {"name": "grpo", "normalise_std": False},
        stage("ppo", loss_aggregation="fixed_length", fixed_length=LENGTH),
        IN_REWARD,
    ),
    Variant(
        "reinforce++ + ppo",
        True,
        {"name": "reinforce_pp", "baseline": True, **FREE},
        stage("ppo", **SUM),
        IN_REWARD,
    ),
    # A greedy completion is a baseline with more variance than the mean of 15 samples.
    Variant("remax + ppo", True, {"name": "remax"}, stage("ppo", **SUM), IN_REWARD, samples=4),
    Variant(
        "rloo + gspo",
        True,
        {"name": "rloo"},
        stage("gspo", length_normalise=False, clip_range=0.2, clip_range_high=0.2, **SUM),
        IN_REWARD,
    ),
    Variant("rloo + cispo", True, {"name": "rloo"}, stage("cispo", **SUM), IN_REWARD),
    Variant("rloo + reinforce", True, {"name": "rloo"}, stage("reinforce", **SUM), IN_REWARD),
    Variant(
        "gae + ppo, full KL",
        True,
        {"name": "gae", "lam": 1.0, **FREE},
        stage("ppo", critic_lr=1e-2, **SUM),
        {"estimator": "full", "placement": "both"},
    ),
    Variant("PPO as published: gae .95, whitened", False, {"name": "gae"}, stage("ppo", critic_lr=1e-2), IN_REWARD),
    Variant(
        "GRPO as published: std, k3 in the loss",
        False,
        {"name": "grpo"},
        stage("ppo", loss_aggregation="sequence_mean"),
        {"estimator": "k3", "placement": "loss", "gradient": "estimator"},
    ),
    Variant(
        "GRPO, std, KL in the reward",
        False,
        {"name": "grpo"},
        stage("ppo", loss_aggregation="sequence_mean"),
        IN_REWARD,
    ),
    Variant("REINFORCE++ as published: whitened", False, {"name": "reinforce_pp"}, stage("ppo"), IN_REWARD),
    Variant(
        "GSPO as published: length-normalised ratio",
        False,
        {"name": "grpo"},
        stage("gspo"),
        {"estimator": "k3", "placement": "loss", "gradient": "estimator"},
    ),
    Variant(
        "rloo + reinforce, k2 in the loss",
        False,
        {"name": "rloo"},
        stage("reinforce", **SUM),
        {"estimator": "k2", "placement": "loss"},
    ),
    Variant(
        "rloo + reinforce, k1 in the loss",
        False,
        {"name": "rloo"},
        stage("reinforce", **SUM),
        {"estimator": "k1", "placement": "loss", "gradient": "estimator"},
    ),
)
