"""The recipe: everything that a user may set, with type, bound, default and meaning."""

from rlhf_core.config.data import Data, Rules, Source
from rlhf_core.config.distributed import Distributed, RayPlacement
from rlhf_core.config.evaluate import Evaluate
from rlhf_core.config.fields import LOGITS_MIB, Config, FrozenPlacement, Severity
from rlhf_core.config.files import RECIPES, RecipeFile, read_recipe
from rlhf_core.config.judge import EvaluationJudge, Judge, RewardCheck
from rlhf_core.config.load import load_recipe
from rlhf_core.config.ppo import PPO
from rlhf_core.config.ppo_options import GROUP_ESTIMATORS, AdvantageEstimator
from rlhf_core.config.preference.feedback import RewardFeedback
from rlhf_core.config.preference.kto import KTO
from rlhf_core.config.preference.reward import Reward
from rlhf_core.config.recipe import ALIGNMENTS, Model, Recipe
from rlhf_core.config.registry import Approval, Contest, Registry
from rlhf_core.config.rewards import RewardFunction, Rewards
from rlhf_core.config.run.limits import Limits
from rlhf_core.config.sampling import DynamicSampling, Sampling
from rlhf_core.config.training import DPO, SFT, LoRA, Training

__all__ = [
    "ALIGNMENTS",
    "DPO",
    "GROUP_ESTIMATORS",
    "KTO",
    "LOGITS_MIB",
    "PPO",
    "RECIPES",
    "SFT",
    "AdvantageEstimator",
    "Approval",
    "Config",
    "Contest",
    "Data",
    "Distributed",
    "DynamicSampling",
    "Evaluate",
    "EvaluationJudge",
    "FrozenPlacement",
    "Judge",
    "Limits",
    "LoRA",
    "Model",
    "RayPlacement",
    "Recipe",
    "RecipeFile",
    "Registry",
    "Reward",
    "RewardCheck",
    "RewardFeedback",
    "RewardFunction",
    "Rewards",
    "Rules",
    "Sampling",
    "Severity",
    "Source",
    "Training",
    "load_recipe",
    "read_recipe",
]
