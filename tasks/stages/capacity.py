"""Check before training that the pipeline can use the models, the samplers and the disk.

The longest allowed row fits context and sampler cache, there are embeddings for every token, and a
model from which a reward model or critic is made can have a scalar head.
"""

from pathlib import Path

from rlhf_core.config import Recipe, Training
from rlhf_core.engine.scratch import moments_folder
from rlhf_core.errors import BadInput, ConfigError
from rlhf_core.modeling.requirements import WITHOUT_SCALAR_HEAD, embedding_rows, read_config
from rlhf_core.plan.shape import FAMILIES
from rlhf_core.stage_catalogue import LEARNING, SAMPLING
from tasks.execution.launcher import has_cuda
from tasks.execution.stage_calls import ask
from tasks.stages.reward_start import require_same_base
from tasks.stages.spec import Artifacts


def require_context(recipe: Recipe, model: Path) -> None:
    """Raise BadInput when a prompt with its response may exceed the model's context or the cache.

    The message names the key and both numbers. A model whose configuration names no context has
    none.
    """
    config = read_config(model)
    sampling = [stage for stage in SAMPLING if recipe.runs(stage)]
    responses = {"data.max_response_tokens": recipe.data.max_response_tokens} | {
        f"{stage}.sampling.max_new_tokens": recipe.sampling(stage).max_new_tokens
        for stage in sampling
    }
    if context := ask("rlhf_core.modeling.requirements:context_of", model):
        for key, response in responses.items():
            _require_room(key, response, recipe.data.max_prompt_tokens, context, model)
    for stage in sampling:
        _require_cache(recipe, stage, config)


def _require_room(key: str, response: int, prompt: int, context: int, model: Path) -> None:
    if prompt + response > context:
        raise BadInput(
            f"{key} {response} and data.max_prompt_tokens {prompt} are {prompt + response} tokens"
            f" together, the context of {model} is {context}. Lower one of them by"
            f" {prompt + response - context} tokens."
        )


def _require_cache(recipe: Recipe, stage: str, config: dict) -> None:
    """Check that one of the longest rows fits, for models whose shape `rlhf plan` knows."""
    from rlhf_core.plan.layout import strategy_of
    from rlhf_core.plan.memory import kv_bytes_per_token
    from rlhf_core.plan.shape import shape_of

    try:
        shape = shape_of(config, "", "")
    except ConfigError:
        return
    sampling, prompt = recipe.sampling(stage), recipe.data.max_prompt_tokens
    token = kv_bytes_per_token(shape, strategy_of(recipe, stage, 1))
    row = prompt + sampling.max_new_tokens
    if token * row > sampling.kv_cache_mib << 20:
        raise BadInput(
            f"{stage}.sampling.kv_cache_mib {sampling.kv_cache_mib} holds"
            f" {(sampling.kv_cache_mib << 20) // token} tokens, but data.max_prompt_tokens {prompt}"
            f" and {stage}.sampling.max_new_tokens {sampling.max_new_tokens} are {row}; set it to"
            f" at least {-(-token * row >> 20)}, and to many times that for speed."
        )


def require_classifier(recipe: Recipe, model: Path) -> None:
    """Raise BadInput when a scalar model is made from a model that can have no scalar head.

    That is a reward model, or a critic of its own where no reward model scores.
    """
    family = read_config(model).get("model_type")
    if family in WITHOUT_SCALAR_HEAD and (wanting := _made_from(recipe)):
        raise BadInput(
            f"{model} is of the family {family!r}, of which transformers makes no sequence"
            f" classifier with one linear head; {wanting}"
        )


def _made_from(recipe: Recipe) -> str | None:
    """Return what the recipe makes a scalar model for, with the remedy; None if for nothing."""
    if recipe.runs("reward") and recipe.model.reward is None:
        return (
            "the reward stage trains one from it. Take a model of another family, give a reward"
            " model (model.reward), or align without one (align = 'dpo' or 'kto' with"
            " evaluate.independent_scorer)."
        )
    ppo = recipe.ppo
    own = ppo.has_critic and not ppo.shares_critic and not ppo.reward.model_weight
    if recipe.runs("ppo") and own:
        return (
            "ppo.critic 'own' starts as one. Set ppo.critic to 'shared', or an advantage that"
            " needs no critic (ppo.advantage = 'grpo')."
        )
    return None


def require_given(recipe: Recipe, model: Path, have: Artifacts | None = None) -> None:
    """Raise BadInput when a model that the recipe gives cannot be used.

    It lacks weights, or embeddings for its tokenizer, or reads packed rows over the borders of
    their sequences, or is a reward model whose padding may end a conversation, or one that reads
    other token ids than the policy, which starts from `model`, where PPO needs the same. Or it is
    one of reward.start or reward.before with another base model than `model`; have: with the
    champion's reward model, where these keys name it.
    """
    given = (recipe.model.sft, recipe.model.reward, *recipe.evaluate.reward_models)
    for folder in [Path(name).expanduser() for name in given if name]:
        if embedding_rows(folder):
            ask("rlhf_core.inspection.given:require_usable", folder)
    if recipe.model.reward:
        _require_given_reward(recipe, model, Path(recipe.model.reward).expanduser())
    require_same_base(recipe, model, have or {})
    _require_separate_rows(recipe)


def _require_separate_rows(recipe: Recipe) -> None:
    """Raise BadInput when a given model would read packed rows as one text.

    The base model is tried by the validate stage.
    """
    packing = {
        stage: recipe.runs(stage) and isinstance(section, Training) and section.packing
        for stage in LEARNING
        for section in [recipe.section(stage)]
    }
    compared = recipe.runs("evaluate") and recipe.evaluate.packing
    scored = packing["reward"] or (packing["ppo"] and recipe.ppo.reward.model_weight > 0)
    if recipe.model.reward:  # the reward stage reads that one alone
        packing["reward"] = False
    wanted = dict.fromkeys(recipe.evaluate.reward_models, compared) | {
        recipe.model.sft: compared or any(packing.values()),
        recipe.model.reward: compared or scored,
    }
    trained = (recipe.model.sft, recipe.model.reward)
    shared = [
        stage
        for stage in LEARNING
        if recipe.runs(stage) and getattr(recipe.section(stage), "share_prompts", False)
    ]
    for name in (name for name, packs in wanted.items() if name and packs):
        folder = Path(name).expanduser()
        if embedding_rows(folder):
            if name == recipe.model.sft:
                _require_no_balancing(recipe, shared, folder)
            # of an ensemble each member
            for member in (folder, *sorted(folder.glob("member_*"))):
                check, shares = "rlhf_core.modeling.row_borders:require_separate_rows", bool(shared)
                ask(check, member, share_prompts=shares and name in trained)


def _require_no_balancing(recipe: Recipe, sharing: list[str], folder: Path) -> None:
    """Raise BadInput when a stage with share_prompts would balance the experts of the given SFT.

    A given reward model from which PPO's critic starts is refused when PPO begins.
    """
    training = [stage for stage in sharing if not (stage == "reward" and recipe.model.reward)]
    sections = [recipe.section(stage) for stage in training]
    coefficients = [one.router_aux_loss_coef for one in sections if isinstance(one, Training)]
    ask("rlhf_core.preflight:require_no_balancing", folder, coefficients)


def _require_given_reward(recipe: Recipe, model: Path, reward: Path) -> None:
    if not embedding_rows(reward):
        return
    scores = recipe.runs("ppo") and recipe.ppo.reward.model_weight and embedding_rows(model)
    ask("rlhf_core.inspection.given:require_reward", reward, recipe.ppo if scores else None, model)


def require_served(recipe: Recipe, model: Path) -> None:
    """Raise BadInput when a stage of the recipe samples with vLLM, which has no such model class.

    The families that `rlhf plan` knows are served, and need no slow import.
    """
    values = read_config(model)
    wanting = [
        f"{stage}.sampling.engine"
        for stage in SAMPLING
        if recipe.runs(stage) and recipe.sampling(stage).engine == "vllm"
    ]
    if not wanting or values.get("model_type") in FAMILIES:
        return
    names = values.get("architectures") or []
    service = "rlhf_core.sampling.architectures:service_of"
    if any(ask(service, name) == "none" for name in names[:1]):
        raise BadInput(
            f"{model} is a {names[0]}, which vLLM does not serve; set {' and '.join(wanting)} to"
            " 'transformers' (slower, the same statistics), or take a model of another family"
        )


def require_machine(recipe: Recipe, stages: list[str]) -> None:
    """Raise BadInput when this machine lacks what a stage needs that is to run."""
    require_samplers(recipe, stages)
    require_disk(recipe, stages)


def require_samplers(recipe: Recipe, stages: list[str]) -> None:
    """Raise BadInput when a stage that is to run samples with vLLM, and there is none."""
    wanting = [
        stage for stage in SAMPLING if stage in stages and recipe.sampling(stage).engine == "vllm"
    ]
    if wanting and ask("rlhf_core.interpreter.installed:package_folder", "vllm") is None:
        raise BadInput(
            f"{wanting[0]}.sampling.engine is 'vllm', which is not installed here; install it, or"
            f" set {' and '.join(f'{stage}.sampling.engine' for stage in wanting)} to"
            " 'transformers' (slower, the same statistics)."
        )


def require_disk(recipe: Recipe, stages: list[str]) -> None:
    """Raise BadInput when a stage that is to learn cannot have its optimizer's moments on disk."""
    for stage in LEARNING:
        section = recipe.section(stage)
        if stage in stages and isinstance(section, Training):
            moments_folder(section, cuda=has_cuda())
